"""The server's fds that a mount holds: never so many that somebody, the mount or another client, meets the end of them."""

import os
import threading
from collections.abc import Iterator
from typing import Callable

import pytest
from hosts import Server, wait_until
from mounting import Mount, mount

pytestmark = pytest.mark.slow
FOLDERS, EACH = 12, 60


@pytest.fixture(params=[200, 600])
def limit(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def there(start: "Callable[..., Server]", limit: int) -> Iterator[Mount]:
    with mount(start(f"--fd-limit={limit}"), "--cache=none") as made:
        yield made


def test_many_more_names_than_the_server_has_fds_are_made_read_changed_and_removed(there: Mount, limit: int) -> None:
    """All at once, by several threads: none is told of too many open files, where there are fds for those that they have open."""
    wrong: list[object] = []
    folders = FOLDERS if limit > 200 else 2  # a connection takes some 35 fds itself

    def work(number: int) -> None:
        folder = there.path / str(number)
        try:
            folder.mkdir()
            for i in range(EACH):
                (folder / f"{i}").write_text(f"{number} {i}")
                os.link(folder / f"{i}", folder / f"hard{i}")
                os.symlink(f"{i}", folder / f"link{i}")
            (folder / "deep/deeper").mkdir(parents=True)
            for i in range(EACH):
                assert (folder / f"link{i}").read_text() == f"{number} {i}"
                os.chmod(folder / f"hard{i}", 0o600)
                os.rename(folder / f"hard{i}", folder / f"deep/deeper/{i}")
            assert len(list(os.scandir(folder))) == 2 * EACH + 1
            for i in range(EACH):
                os.unlink(folder / f"link{i}")
                assert os.stat(folder / f"{i}").st_nlink == 2
        except Exception as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(folders)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert sum(len(names) for _, _, names in os.walk(there.tree)) == 2 * folders * EACH
    wait_until(
        lambda: len(there.server.open_fds()) < max(limit // 2, 80),
        lambda: f"it holds {len(there.server.open_fds())} of {limit}",
    )


@pytest.mark.parametrize("limit", [600], indirect=True)
def test_what_a_mount_holds_leaves_enough_for_other_clients(there: Mount, limit: int) -> None:
    for i in range(2 * limit):
        (there.path / str(i)).touch()
    with there.server.peer() as peer, mount(there.server) as other:
        held = [peer.walk(1, str(i).encode()) for i in range(limit // 64)]
        assert len(held) == limit // 64
        for i in range(limit):
            assert (other.path / str(i)).read_bytes() == b""
