#!/bin/sh
# Runs a command as root in a user-mode Linux, whose limits are its own: bench/uml.sh COMMAND...
#
# For what this machine does not allow, such as more open files than its hard limit:
#
#   bench/uml.sh python3 bench/scale.py --what fds
#
# A system call takes some twenty times as long there, so its times say whether something stays flat and no more; memory is
# memory. It sees this machine's files, has one cpu, and a file system (ext4) of its own on $TMPDIR.
# Needs Debian's user-mode-linux and e2fsprogs, 6 GiB of /dev/shm at most, and 3 of the temporary directory.
set -eu
[ $# -gt 0 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
place=$(mktemp -d)
trap 'rm -r -- "$place"' EXIT
truncate -s 3G "$place/disk"
mkfs.ext4 -q -F -N 400000 "$place/disk"
mkdir "$place/tmp"
command=$(for word; do printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")"; done)
cat > "$place/init" <<INIT
#!/bin/sh
export PATH=$PATH HOME=/root TMPDIR=$place/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t ext4 /dev/ubda $place/tmp
ulimit -n 1000000
cd $PWD
$command
echo \$? > $place/status
umount $place/tmp
echo o > /proc/sysrq-trigger
sleep 60
INIT
chmod +x "$place/init"
TMPDIR=/dev/shm linux.uml mem=6G "ubd0=$place/disk" root=/dev/root rootfstype=hostfs rootflags=/ rw quiet \
    con=null con0=fd:0,fd:1 "init=$place/init" < /dev/null
exit "$(cat "$place/status")"
