"""runsc's command line in Go's flag syntax (https://pkg.go.dev/flag), and which command lines are a gofer's."""

import pytest

from gofer.runsc.errors import UsageFault
from gofer.runsc.flags import TOO_NEW, Globals, GoferFlags, is_gofer_invocation, parse_globals, parse_gofer

# As captured from Debian's runsc of 2022-12, and as runsc/container/container.go of 2026-08 puts it together.
OF_2022 = (
    "--root=/run/x --debug=true --log=/l --debug-log=/d/ --network=none --log-fd=3 --debug-log-fd=4 "
    "gofer --bundle b --spec-fd=5 --mounts-fd=6 --io-fds=7 --io-fds=8 --sync-userns-fd=9"
)
OF_2026 = (
    "--log-fd=3 --debug-log-fd=4 --host-uds=all gofer --bundle /b --gofer-mount-confs=lisafs:self,none:memory,"
    "lisafs:none,erofs:anon:size=2g --uid=1000 --gid=100 --spec-fd=5 --mounts-fd=6 --rpc-fd=7 --pin-ring-fd=8 "
    "--sync-sentry-exit-fd=9 --io-fds=10,11 --dev-io-fd=12 --sync-userns-fd=13 --sync-chroot-fd=14 c1"
)


def parse(line: str) -> tuple[Globals, GoferFlags]:
    flags, words = parse_globals(line.split())
    return flags, parse_gofer(words)


def refused(line: str) -> str:
    with pytest.raises(UsageFault) as caught:
        parse(line)
    return str(caught.value)


def test_the_command_line_of_2022_is_read_whole() -> None:
    flags, gofer = parse(OF_2022)
    assert (flags.log, flags.log_fd, flags.debug_log_fd, flags.debug) == ("/l", 3, 4, True)
    assert (gofer.bundle, gofer.spec_fd, gofer.mounts_fd, gofer.io_fds) == ("b", 5, 6, [7, 8])
    assert (gofer.sync_userns_fd, gofer.sync_chroot_fd, gofer.mount_confs) == (9, -1, [])
    assert (gofer.uid, gofer.gid, gofer.container_id) == (0, 0, "")
    assert gofer.apply_caps and gofer.setup_root


def test_the_command_line_of_2026_is_read_whole() -> None:
    flags, gofer = parse(OF_2026)
    assert flags.host_uds == "all"
    assert [(conf.lisafs, conf.overlay) for conf in gofer.mount_confs] == [
        (True, True),  # lisafs:self
        (False, False),  # none:memory is a tmpfs of the sandbox's own, no overlay on anything
        (True, False),
        (False, True),
    ]
    assert (gofer.uid, gofer.gid, gofer.io_fds, gofer.dev_io_fd) == (1000, 100, [10, 11], 12)
    assert (gofer.rpc_fd, gofer.pin_ring_fd, gofer.sync_sentry_exit_fd) == (7, 8, 9)
    assert (gofer.sync_userns_fd, gofer.sync_chroot_fd, gofer.container_id) == (13, 14, "c1")


@pytest.mark.parametrize("line", ["-bundle=b", "--bundle=b", "-bundle b", "--bundle b"])
def test_one_dash_or_two_and_a_value_after_an_equals_sign_or_in_the_next_word(line: str) -> None:
    assert parse_gofer(line.split()).bundle == "b"


@pytest.mark.parametrize("word", ["-debug", "--debug", "--debug=1", "--debug=t", "--debug=TRUE"])
def test_a_bare_boolean_is_true_and_takes_no_word_after_it(word: str) -> None:
    flags, words = parse_globals([word, "gofer", "--bundle=b"])
    assert flags.debug and words == ["--bundle=b"]


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "False", "FALSE"])
def test_the_words_that_go_takes_for_false(text: str) -> None:
    assert not parse_gofer([f"--apply-caps={text}"]).apply_caps


@pytest.mark.parametrize("text,number", [("5", 5), ("0x10", 16), ("0b11", 3), ("0o17", 15), ("017", 15), ("-1", -1)])
def test_numbers_are_read_with_the_base_that_their_prefix_says(text: str, number: int) -> None:
    assert parse_gofer([f"--spec-fd={text}"]).spec_fd == number


@pytest.mark.parametrize("text", ["", "x", "5 ", "1e3", "--1", "٣", "9223372036854775808", "08"])
def test_what_is_no_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageFault, match="-spec-fd"):
        parse_gofer([f"--spec-fd={text}"])


def test_two_dashes_end_the_flags() -> None:
    assert parse_gofer(["--bundle=b", "--", "--id"]).container_id == "--id"
    assert parse_globals(["--debug", "--", "gofer", "--bundle=b"])[1] == ["--bundle=b"]


def test_the_last_of_a_repeated_flag_counts_and_fds_add_up() -> None:
    gofer = parse_gofer(["--bundle=a", "--bundle=b", "--io-fds=5,6", "--io-fds", "7"])
    assert (gofer.bundle, gofer.io_fds) == ("b", [5, 6, 7])


def test_unknown_flags_before_the_word_gofer_are_ignored_in_every_form() -> None:
    flags, gofer = parse("--new-one=3 -other --third value --platform ptrace --rootless --debug gofer --bundle b")
    assert flags.debug and gofer.bundle == "b"


def test_an_unknown_flag_after_the_word_gofer_is_refused() -> None:
    said = refused("gofer --bundle=b --sync-more-fd=3")
    assert said == f"flag provided but not defined: -sync-more-fd: {TOO_NEW}" and "--directfs=false" in TOO_NEW
    assert said == refused("gofer --bundle=b --sync-more-fd 3") == refused("gofer --bundle=b -sync-more-fd")


def test_flags_for_the_profiler_and_for_the_other_gofers_second_start_are_taken_and_ignored() -> None:
    assert parse("gofer --bundle=b --profile-cpu-fd=5 --trace-fd=7 --proc-mount-sync-fd=6")[1].bundle == "b"


@pytest.mark.parametrize(
    "line,name",
    [
        ("--host-uds=maybe gofer", "host-uds"),
        ("--host-fifo=create gofer", "host-fifo"),
        ("--character-device-policy=all gofer", "character-device-policy"),
        ("--debug-log-format=xml gofer", "debug-log-format"),
        ("--overlay2=some:memory gofer", "overlay2"),
        ("--overlay2=root gofer", "overlay2"),
        ("--debug=maybe gofer", "debug"),
        ("gofer --io-fds=5,x", "io-fds"),
        ("gofer --io-fds=-1", "io-fds"),
        ("gofer --gofer-mount-confs=lisafs", "gofer-mount-confs"),
        ("gofer --gofer-mount-confs=none:none", "gofer-mount-confs"),
        ("gofer --gofer-mount-confs=lisafs:self:2g", "gofer-mount-confs"),
        ("gofer --gofer-mount-confs=lisafs:self,1", "gofer-mount-confs"),
        ("gofer --overlay-mediums=0,5", "overlay-mediums"),
        ("gofer --overlay-mediums=0,x", "overlay-mediums"),
        ("gofer --overlay-mediums=²", "overlay-mediums"),
        ("gofer --sync-nvproxy-fd=x", "sync-nvproxy-fd"),
        ("gofer --trace-fd=x", "trace-fd"),
        ("gofer --apply-caps=maybe", "apply-caps"),
    ],
)
def test_a_wrong_value_is_refused_by_name(line: str, name: str) -> None:
    assert f"-{name}" in refused(line)


@pytest.mark.parametrize("conf", ["virtiofs:none", "lisafs:zram", "lisafs:none:uid=0", "9"])
def test_a_mount_conf_of_a_later_runsc_is_refused_with_advice(conf: str) -> None:
    said = refused(f"gofer --bundle=b --gofer-mount-confs=lisafs:none,{conf}")
    assert "-gofer-mount-confs" in said and repr(conf) in said and said.endswith(TOO_NEW)


def test_a_missing_value_and_more_than_one_container_id_are_refused() -> None:
    assert refused("gofer --bundle") == "flag needs an argument: -bundle"
    assert "a b" not in refused("gofer --bundle=b a b") and "one container ID" in refused("gofer --bundle=b a b")
    assert refused("gofer ---bundle=b") == "bad flag syntax: ---bundle=b"
    assert refused("gofer --=b") == "bad flag syntax: --=b"


def test_a_fault_in_the_flags_still_tells_where_to_log_it() -> None:
    with pytest.raises(UsageFault) as caught:
        parse_globals(["--log-fd=7", "--host-uds=maybe", "gofer"])
    assert isinstance(caught.value.so_far, Globals) and caught.value.so_far.log_fd == 7


@pytest.mark.parametrize(
    "line,root,mounts",
    [
        ("", False, False),
        ("--overlay=false", False, False),
        ("--overlay=true", True, True),
        ("--overlay2=none", False, False),
        ("--overlay2=root:memory", True, False),
        ("--overlay2=all:/some/where", True, True),
    ],
)
def test_the_overlay_flags_of_2022_under_both_their_names(line: str, root: bool, mounts: bool) -> None:
    flags, _ = parse_globals([*line.split(), "gofer"])
    assert (flags.overlay_root, flags.overlay_mounts) == (root, mounts)


def test_the_old_name_of_host_uds_opens_and_an_empty_value_means_none() -> None:
    assert parse_globals(["--fsgofer-host-uds=true", "gofer"])[0].host_uds == "open"
    assert parse_globals(["--host-uds=", "gofer"])[0].host_uds == "none"


@pytest.mark.parametrize("line", ["--fdlimit=-1", ""])
def test_a_negative_fd_limit_is_none(line: str) -> None:
    assert parse_globals([*line.split(), "gofer"])[0].fd_limit is None
    assert parse_globals(["--fdlimit", "0", "gofer"])[0].fd_limit == 0


@pytest.mark.parametrize(
    "line",
    [
        OF_2022,
        OF_2026,
        "gofer",
        "-root /r gofer",
        "--root gofer gofer",
        "--debug gofer --bundle b",
        "--nobody-knows gofer",
        "-- gofer",
    ],
)
def test_a_gofers_command_line_is_known_by_its_first_word(line: str) -> None:
    assert is_gofer_invocation(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "serve gofer",
        "--version",
        "runsc -- gofer",
        "--root gofer",
        "ls /x gofer",
        "--debug run gofer",
        "---x gofer",
    ],
)
def test_other_command_lines_are_not_taken_for_a_gofers(line: str) -> None:
    assert not is_gofer_invocation(line.split())
