#!/usr/bin/env bash
# Process 1 of new namespaces (mount, pid, uts, ipc, net, cgroup): makes a root of its own over the machine's, installs
# the product there as `make install` would, and becomes systemd. Nothing is written back but the folders state/ and
# root/ of $1, which stand for the server's disks and outlive a reboot.
#
# boot.sh FOLDER HIERARCHY VENV CODE [bare [BASE]]; HIERARCHY is `unified` where the machine has control groups of version
# 2 only. `bare`: nothing is installed; the environment lies in /opt/environment, the code in /opt/code. BASE: the root of
# another system in the place of the machine's, with nothing of ours at all.
set -euo pipefail
folder=$1 hierarchy=$2 venv=$3 code=$4 bare=${5:-} base=${6:-}
root=$folder/mount

# The machine's own files, with changes kept in memory only.
ip link set lo up
hostname azaion-test
mkdir -p "$root" "$folder/memory" "$folder/state" "$folder/root"
mount -t tmpfs -o size=${base:+1}2g tmpfs "$folder/memory"
over() { # LOWER NAME TARGET
  mkdir -p "$folder/memory/$2/upper" "$folder/memory/$2/work" "$3"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$folder/memory/$2/upper,workdir=$folder/memory/$2/work" "$3"
}
over "${base:-/}" root "$root"

# Of the machine's units none is enabled, and what would touch the kernel that we share is masked.
units=$root/etc/systemd/system
rm -rf "$units"/*.wants "$root"/etc/rc?.d "$units"/dbus-org.freedesktop.timesync1.service
for unit in systemd-{udevd,udev-trigger,sysctl,modules-load,random-seed,timesyncd,binfmt,remount-fs,pstore,logind,resolved}.service \
  systemd-{update-utmp,journal-flush,tmpfiles-setup-dev,networkd,networkd-wait-online,hwdb-update,oomd}.service \
  systemd-udevd-{control,kernel}.socket systemd-tmpfiles-clean.timer {kmod-static-nodes,modprobe@,getty@,console-getty}.service \
  {networking,ifupdown-pre,apparmor,snapd,NetworkManager-wait-online}.service apt-daily{,-upgrade}.timer \
  {dev-hugepages,dev-mqueue,sys-kernel-debug,sys-kernel-tracing,sys-kernel-config,sys-fs-fuse-connections}.mount \
  proc-sys-fs-binfmt_misc.automount; do
  ln -sfn /dev/null "$units/$unit"
done
: >"$root/etc/fstab"
rm -f "$root/etc/machine-id"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nForwardToConsole=no\nRateLimitBurst=0\n' >"$root/etc/systemd/journald.conf.d/test.conf"

# The kernel's file systems.
mount -t proc proc "$root/proc"
for each in sys sysrq-trigger; do
  [[ -e $root/proc/$each ]] || continue
  mount --bind "$root/proc/$each" "$root/proc/$each"
  mount -o remount,bind,ro "$root/proc/$each"
done
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for each in null zero full random urandom tty; do
  touch "$root/dev/$each"
  mount --bind "/dev/$each" "$root/dev/$each"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
ln -s pts/ptmx "$root/dev/ptmx"
mkdir "$root"/dev/{pts,shm,mqueue}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
touch "$root/dev/console"
mount --bind "$folder/console.log" "$root/dev/console"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

# A boot is told from another by its id, which the kernel that we share does not change.
cat /proc/sys/kernel/random/uuid >"$root/run/boot_id"
mount --bind "$root/run/boot_id" "$root/proc/sys/kernel/random/boot_id"

# Control groups: the namespace makes the group that we were put into the root of each hierarchy.
if [[ $hierarchy == unified ]]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
  mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
  while IFS=: read -r _ controllers _; do
    name=${controllers#name=}
    mkdir -p "$root/sys/fs/cgroup/${name:-unified}"
    if [[ -z $name ]]; then
      mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    else
      mount -t cgroup -o "$controllers" cgroup "$root/sys/fs/cgroup/$name"
    fi
  done </proc/self/cgroup
fi

# A release is a virtual environment. This one is the tests' own, with the code that is tested.
if [[ $base ]]; then
  release=
elif [[ $bare ]]; then
  release=$root/opt/environment
  over "$code" code "$root/opt/code"
else
  release=$root/opt/azaion/releases/test
  over "$code" code "$root/opt/azaion/code"
fi
[[ ! $release ]] || over "$venv" release "$release"
interpreter=$(readlink -f "$venv/bin/python")
prefix=${interpreter%/bin/*}
if [[ $release && $prefix != /usr ]]; then
  # It may lie where the units must not look, in somebody's home.
  mkdir -p "$root/opt/python"
  mount --bind "$prefix" "$root/opt/python"
  ln -sfn "/opt/python/bin/${interpreter##*/}" "$release/bin/python"
  sed -i 's#^home = .*#home = /opt/python/bin#' "$release/pyvenv.cfg"
  echo /opt/python/lib >"$root/etc/ld.so.conf.d/azaion-test.conf"
  ldconfig -r "$root" 2>/dev/null
fi

# The disks. Not mounted in /azaion itself: `systemctl restart 'azaion*'` would have a try at azaion.mount.
mkdir -p "$units"/{multi-user,sockets}.target.wants "$root/var/lib/azaion" "$root/srv/disk"
mount --bind "$folder/state" "$root/var/lib/azaion"
mount --bind "$folder/root" "$root/srv/disk"
ln -s srv/disk "$root/azaion"
cp -r "$folder/drop-ins/." "$units/"

# What `make install` does.
if [[ ! $bare ]]; then
  ln -sfn releases/test "$root/opt/azaion/current"
  for each in "$release"/lib/python*/site-packages/*azaion*.pth; do
    echo /opt/azaion/code >"$each"
  done
  for each in "$code"/etc/systemd/*.{service,socket,slice}; do
    cp "$each" "$units/"
  done
  install -D -m 644 "$code/etc/systemd/azaion.sysusers" "$root/etc/sysusers.d/azaion.conf"
  install -D -m 644 "$code/etc/systemd/azaion.tmpfiles" "$root/etc/tmpfiles.d/azaion.conf"
  install -D -m 644 "$code/etc/systemd/azaion.rules" "$root/etc/polkit-1/rules.d/50-azaion.rules"
  systemd-sysusers --root="$root" azaion.conf
  ln -s ../azaion.service "$units/multi-user.target.wants/"
  ln -s ../azaion.socket "$units/sockets.target.wants/"
  user=$(awk -F: '$1 == "azaion" {print $3 ":" $4}' "$root/etc/passwd")
  chown -R "$user" "$root/srv/disk" "$root/var/lib/azaion"
  install -D -m 640 "$folder/env" "$root/etc/azaion/.env"
fi

cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old
mount --make-rshared /
exec env -i container=azaion-test PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
  setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog,-mac_admin,-mac_override --inh-caps=-all \
  /lib/systemd/systemd --system --unit=multi-user.target --show-status=no --log-target=journal --log-level=info
