#!/bin/sh
# Makes the one-file program: ./build.sh [OUTPUT [INTERPRETER]], by default dist/gofer and /usr/bin/python3.
#
#   ./build.sh deb   also dist/gofer_VERSION_all.deb, with dpkg-deb
#   ./build.sh oci   also dist/gofer-VERSION-MACHINE.oci.tar, an image of this Debian machine's python3 and the one file
#   ./build.sh man   also dist/man/
#   ./build.sh all   all of these
# with a bill of materials for each (*.cdx.json) and SHA256SUMS. (Files of these names: ./deb.)
#
# The file runs straight from inside itself: nothing is unpacked or written, neither HOME nor any SHIV_* or PYTHON*
# variable has an effect, and no package of the machine is imported (python3 -IS). It holds the modules compiled for every
# CPython from 3.9 found here (onefile/pythons.py), and their source for other versions. Two builds of one commit with the
# same CPythons are byte-identical.
#
# INTERPRETER stands in the #! line. It is an absolute path so that PATH does not decide what root runs; wherever
# python3 is, `python3 -IS FILE` works as well. In the environment:
#   SHIV=PYTHON                 an interpreter that has shiv; default: one in .venv-build, made and kept here
#   SOURCE_DATE_EPOCH=SECONDS   time stamp of what is in the file; default: the commit's
set -eu
umask 022

fail() { # STATUS TEXT
    printf 'build.sh: %s\n' "$2" >&2
    exit "$1"
}
usage="usage: ./build.sh [OUTPUT [INTERPRETER]]"
release=
case ${1-} in
    -h | --help)
        printf '%s\n' "$usage"
        sed -n '2,/^[^#]/s/^#$//p; 2,/^[^#]/s/^# //p' "$0"
        exit
        ;;
    deb | oci | man | all)
        [ $# -eq 1 ] || fail 2 "too many arguments; usage: ./build.sh $1"
        release=$1
        shift
        ;;
    --) shift ;;
    -*) fail 2 "$1: no such option; $usage (a name that begins with a dash: ./$1)" ;;
esac
[ $# -le 2 ] || fail 2 "too many arguments; $usage"
output=${1-$(dirname -- "$0")/dist/gofer} interpreter=${2-/usr/bin/python3}
[ -n "$output" ] || fail 2 "OUTPUT must not be empty; $usage"
[ ! -d "$output" ] || fail 1 "$output is a directory; give OUTPUT the name of a file"
mkdir -p -- "$(dirname -- "$output")"
output=$(cd -- "$(dirname -- "$output")" && pwd)/$(basename -- "$output")
cd -- "$(dirname -- "$0")"

if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    if [ -e .git ]; then # git says why it does not tell: a checkout that belongs to somebody else, one without a commit
        SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) ||
            fail 1 "git does not tell the commit's time: see above, or set SOURCE_DATE_EPOCH"
    else
        SOURCE_DATE_EPOCH=315532800
        printf 'build.sh: no git checkout: what is in the file is of 1980 (SOURCE_DATE_EPOCH says otherwise)\n' >&2
    fi
fi
export SOURCE_DATE_EPOCH

if [ -z "${SHIV:-}" ]; then
    SHIV=.venv-build/bin/python3
    if ! "$SHIV" -c 'import shiv' 2>/dev/null; then
        python3 -m venv --clear .venv-build
        "$SHIV" -m pip install -qq --disable-pip-version-check "$(grep '^shiv==' tests/requirements.txt)"
    fi
fi
trap 'rm -f -- "$output.new"' EXIT
"$SHIV" -W ignore::DeprecationWarning onefile/pack.py "$output.new" "$interpreter"
mv -- "$output.new" "$output"
if [ -n "$release" ]; then
    exec python3 release/make.py "$release"
fi
