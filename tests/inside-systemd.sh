#!/bin/bash
# Runs a systemd of its own: inside-systemd.sh GOFER UNITS PLACE, in namespaces that test_systemd.py has made.
#
# Its root is this machine's, with a writable layer above it that is gone afterwards. It starts gofer@srv-data and the container
# gofer-sandbox@box, whose bundle is PLACE/box, and check.service, which asks for things and writes what comes to PLACE/out; then it
# ends.
set -eu
gofer=$1 units=$2 place=$3
layers=$place/layers root=$place/layers/root
mkdir "$layers"
mount -t tmpfs none "$layers"
mkdir "$layers/upper" "$layers/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys" # the machine's own settings
mount -t sysfs -o ro sysfs "$root/sys"
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 none "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 none "$root/run"
mount --bind "$place" "$root/mnt"
mkdir -p "$root/srv/data" "$root/etc/gofer"
install -m 755 "$gofer" "$root/usr/bin/gofer"
echo hello >"$root/srv/data/hello"
mkdir -p "$root/var/lib/gofer"
cp -a "$place/box" "$root/var/lib/gofer/box"
echo 'RUNSC_FLAGS=--platform=ptrace --network=none --ignore-cgroups' >"$root/etc/gofer/box.sandbox"
echo GOFER_SERVE_XATTRS=all >"$root/etc/gofer/srv-data.env"

system=$root/etc/systemd/system
cp "$units"/*@.* "$system"
for unit in gofer@.service gofer@.socket gofer-sandbox@.service; do
    mkdir "$system/$unit.d"
    printf "[Unit]\nDefaultDependencies=no\n" >"$system/$unit.d/alone.conf" # nothing else of this machine is started
done
cat >"$system/check.service" <<'UNIT'
[Unit]
DefaultDependencies=no
Wants=gofer@srv-data.socket gofer@srv-data.service gofer-sandbox@box.service
After=gofer@srv-data.socket gofer@srv-data.service gofer-sandbox@box.service
[Service]
Type=oneshot
StandardOutput=append:/mnt/out
StandardError=append:/mnt/out
TimeoutStartSec=100
ExecStart=gofer cat /run/gofer/srv-data.sock:/hello
ExecStart=gofer mkdir /run/gofer/srv-data.sock:/made
ExecStart=test -d /srv/data/made
ExecStart=systemctl show --property=ActiveState,StatusText,Type,NotifyAccess,WatchdogUSec gofer@srv-data.service
ExecStart=systemctl stop gofer@srv-data.service gofer@srv-data.socket
ExecStart=systemctl show --property=Result,ExecMainStatus gofer@srv-data.service
ExecStart=sh -c 'until test -s /var/lib/gofer/box/rootfs/made; do sleep 0.1; done'
ExecStart=sh -c 'echo box is $(cat /var/lib/gofer/box/rootfs/made), $(systemctl is-active gofer-sandbox@box.service)'
ExecStart=systemctl stop gofer-sandbox@box.service
ExecStart=sh -c 'echo box is $(systemctl is-active gofer-sandbox@box.service), leaves $(ls /run/gofer-sandboxes)'
ExecStopPost=systemctl --force --force poweroff
UNIT
# No chroot(2): in one runsc may make no user namespace.
mkdir "$root/before"
cd "$root"
pivot_root . before
umount --lazy /before
exec env -i PATH=/usr/sbin:/usr/bin container=other /lib/systemd/systemd --system --unit=check.service --log-target=console
