"""The list of lessons: what gVisor's gofer and its neighbours got wrong once and a server can get wrong again.

Each has a test, or a case of `gofer conform`, whose docstring (or whose module's) names the commit or advisory. Lessons of the
start-up of a container are in the tests of the part that does it.
"""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
LESSONS = """
3f42b2da9 65a26689c 0fd9b69d5 70afab3c9 2a62f4379 f3ff82093 846f4055e 64785c867 a7402ea5d 573a9e73c ea7cd7184 38d2b048f
22a0b4acb dbfc591d9 54a66a663 a8062eab8 d5e8d33af c58e543f3
1e1d6b2be de480b58c 84670a4fc 7bf656f4c 68fd6aba4 f841b2511 0ec88b757 6ac829ca1 ecda53355 0479a6302 1a02bb22b 711940335
6e5b602ee 81fa2013f e7b59aa1b 4e559c2af 17294348e 2c1c4a551 acf460d0d 567ce6c89 de54e60f5 21a689b36 bbf4a5908 4c569980d
c4f686f4e 0eb861df5 6fae8b623 0c3abacb1 49d88e92e 26a5961d4 ddaa36bde 2b0615c76
94126dd4a 54dafa76c 492ea1a04 38a3c98a0 848cd6f0f e60464fdf
CVE-2020-35517 CVE-2023-2861 CVE-2016-9602 CVE-2026-93834 CVE-2016-7116 CVE-2022-0358 CVE-2021-20263 CVE-2020-10717
CVE-2016-8578 CVE-2016-9104 CVE-2016-8577 CVE-2016-9102 CVE-2016-9105 CVE-2016-9106 CVE-2016-9103 CVE-2025-2713
CVE-2026-96812 CVE-2023-37474
""".split()


def docstrings() -> str:
    """Every docstring of every test and case, and of the modules they are in."""
    found = []
    for path in sorted([*HERE.glob("test_*.py"), *(HERE.parent / "gofer/conform/cases").glob("*.py")]):
        if path.name == Path(__file__).name:
            continue
        module = ast.parse(path.read_text())
        for node in ast.walk(module):
            if isinstance(node, (ast.FunctionDef, ast.Module)):
                found.append(ast.get_docstring(node) or "")
    return "\n".join(found)


TOLD = docstrings()


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_its_test(lesson: str) -> None:
    assert lesson in TOLD
