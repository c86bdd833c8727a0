# Becomes PID 1 of a throw-away machine: a private copy-on-write root, then systemd. Run by boot.py in fresh namespaces.
set -eu
scratch=$1
shift
umask 022
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$scratch/layers"
mkdir "$scratch/layers/upper" "$scratch/layers/work" "$scratch/layers/root"
[ -z "${CRONQ_SYSTEMD:-}" ] || cp -a "$CRONQ_SYSTEMD/." "$scratch/layers/upper/"
root=$scratch/layers/root
mount -t overlay -o "lowerdir=/,upperdir=$scratch/layers/upper,workdir=$scratch/layers/work" overlay "$root"

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys" # what systemd sets there is the real machine's
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
    : >"$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
: >"$root/dev/console"
mount --bind "$scratch/console" "$root/dev/console"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for folder in /var/spool /home; do # on a real file system: on an overlay, files seem to lie on another device
    mkdir -p "$scratch/disk$folder"
    mount --bind "$scratch/disk$folder" "$root$folder"
done

for folder; do # what lies on other file systems
    mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
done

# Nothing of the real machine's is enabled, mounted or kept here.
rm -rf "$root/etc/systemd/system" "$root/etc/systemd/user" "$root/etc/fstab" "$root/var/lib/systemd" "$root/var/log/journal"
mkdir -p "$root/etc/systemd/system"
: >"$root/etc/machine-id"
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-logind.service dbus.socket systemd-networkd.socket \
    systemd-timesyncd.service e2scrub_reap.service dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-fs-fuse-connections.mount systemd-modules-load.service systemd-ask-password-console.path systemd-initctl.socket; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done
printf '[Unit]\nDescription=A machine with nothing on it\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' \
    >"$root/etc/systemd/system/booted.target"

cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=booted PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 SYSTEMD_COLORS=0 \
    /lib/systemd/systemd --system --unit=booted.target --show-status=no
