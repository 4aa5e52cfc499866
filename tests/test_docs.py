"""What the pages say is run."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Start
from hosts import CHECKOUT

LIBRARY = (CHECKOUT / "docs/library.md").read_text()


def test_the_examples_of_the_library_run_one_after_the_other(start: Start, spot: Path) -> None:
    (spot / "hello.txt").write_text("hello\n")
    server = start()
    blocks = re.findall(r"^```python\n(.*?)^```$", LIBRARY, re.M | re.S)
    assert len(blocks) >= 6
    code = "\n".join([f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); path = {str(server.path)!r}", *blocks])
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    for said in ("b'hello\\n'", "[b'hello.txt']", "b'written through the server'", "No such file", "PRead", "nonexistent"):
        assert said in run.stdout, run.stdout


@pytest.mark.slow
def test_the_examples_of_the_library_are_typed(spot: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", LIBRARY, re.M | re.S)
    (spot / "examples.py").write_text("\n".join(["path = ''", *blocks]))
    argv = [sys.executable, "-m", "mypy", "--strict", "--cache-dir=/dev/null", spot / "examples.py"]
    run = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.slow
def test_the_pages_are_a_site_in_which_every_link_leads_somewhere(spot: Path) -> None:
    done = subprocess.run([sys.executable, CHECKOUT / "docs/site.py", spot], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done
    index = (spot / "site/index.html").read_text()
    assert "docs/tutorial.html" in index and "docs/terminal.svg" in index and (spot / "site/docs/terminal.svg").exists()
    (spot / "pages/docs/tutorial.md").write_text("[x](no/such/page.md)")
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", spot / "mkdocs.yml"]
    broken = subprocess.run(argv, capture_output=True, text=True)
    assert broken.returncode != 0 and "no/such/page.md" in broken.stdout + broken.stderr


@pytest.mark.slow
def test_the_picture_of_a_terminal_is_what_the_commands_say_today(spot: Path) -> None:
    """All but times, numbers, and what the kernel of whoever made it has."""
    subprocess.run([sys.executable, CHECKOUT / "docs/picture.py", spot / "now.svg"], check=True)

    def shown(path: Path) -> list[str]:
        lines = ["".join(text.itertext()) for text in ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")]
        return [re.sub(r"\d+", "0", line) for line in lines if line.startswith(("$", "gofer", "-", "d", "l", "hello"))]

    then, now = shown(CHECKOUT / "docs/terminal.svg"), shown(spot / "now.svg")
    assert len(then) > 10 and [line[:60] for line in then] == [line[:60] for line in now]


def test_the_tests_that_the_table_of_hosts_names_are_there() -> None:
    rows = re.findall(r"^\|.*\| (in CI|by hand[^|]*|refused) \| (.*) \|$", (CHECKOUT / "README.md").read_text(), re.M)
    assert len(rows) >= 10
    for _, seen in rows:
        for file, name in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", seen):
            assert f"def {name}" in (CHECKOUT / "tests" / file).read_text(), seen
