"""A container engine of a test's own: buildah builds the very Dockerfile, podman and crun run what came out, with their own
seccomp profile, namespaces and read-only mounts. No daemon, no registry: the images that the Dockerfile starts from are made
here, by debootstrap.

Everything is in one folder, and the processes are in namespaces of their own (Tests/Image/apart), so that nothing is left of it
when those end. Must run as root in such namespaces.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "build/Dockerfile"
SECCOMP = Path("/usr/share/containers/seccomp.json")
# What the official image of Swift has besides Swift, as far as a build reads it.
SWIFT_PACKAGES = ("binutils", "gcc", "git", "libc6-dev", "libcurl4-openssl-dev", "libedit-dev", "libncurses-dev", "libpython3-dev",
                  "libsqlite3-dev", "libstdc++-12-dev", "libxml2-dev", "pkg-config", "tzdata", "uuid-dev", "zlib1g-dev")
MIRROR = os.environ.get("DEBIAN_MIRROR") or "http://deb.debian.org/debian"
# Mirrors have security updates beside the rest, as Debian's own does.
SECURITY_MIRROR = f"{MIRROR.rstrip('/')}-security"
SOURCES = "".join(f"deb {mirror} {suite} main\n" for mirror, suite in (
    (MIRROR, "bookworm"), (MIRROR, "bookworm-updates"), (SECURITY_MIRROR, "bookworm-security")))
# In place of the compiler, with --binaries: "builds" a product by taking the program that is there already.
READY_MADE = """#!/bin/sh
set -eu
[ "$1 $2 $3 $4" = 'build -c release --product' ] || { echo "this is no swift: $*" >&2; exit 1; }
mkdir -p .build/release
cp "/opt/programs/$5" ".build/release/$5"
"""


class Failure(Exception):
    """What went wrong, in words for people."""


def run(*words, **options):
    """Runs a program to its end and returns its output; Failure with what it said when it fails."""
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failure(f"{' '.join(words[:6])} …: status {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-1500:].rstrip()}")
    return done.stdout


def wait_until(condition, seconds, what, tell=lambda: ""):
    """Asks until the answer is true, and returns it; Failure when that takes too long."""
    until = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > until:
            raise Failure(f"{what}: not within {seconds} s. {tell()}")
        time.sleep(0.1)


def storage_driver(folder):
    """Layers by overlay mounts where the machine has them; else each layer is a copy of the one below, which works everywhere and is slow."""
    places = [folder / "overlay" / name for name in ("lower", "upper", "work", "merged")]
    for place in places:
        place.mkdir(parents=True)
    options = f"lowerdir={places[0]},upperdir={places[1]},workdir={places[2]}"
    works = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, places[3]], capture_output=True, check=False).returncode == 0
    if works:
        run("umount", places[3])
    shutil.rmtree(folder / "overlay")
    return "overlay" if works else "vfs"


def base_images():
    """The names of the images that the Dockerfile starts from."""
    return dict(re.findall(r"^ARG (SWIFT_IMAGE|DEBIAN_IMAGE)=(\S+)$", DOCKERFILE.read_text(), re.M))


class Engine:
    def __init__(self, folder):
        self.folder = Path(folder)
        for name in ("tmp", "networks"):
            (self.folder / name).mkdir()
        limit = subprocess.run(["bash", "-c", "ulimit -Hn; ulimit -Hu"], capture_output=True, text=True, check=True).stdout.split()
        # Limits that this process may set; what an engine sets by itself may be above. cgroups would need rights over those of the machine.
        (self.folder / "containers.conf").write_text(f"""
[containers]
default_ulimits = ["nofile={limit[0]}:{limit[0]}", "nproc={limit[1].replace('unlimited', '-1')}:{limit[1].replace('unlimited', '-1')}"]
cgroups = "disabled"
log_driver = "k8s-file"
[network]
network_backend = "netavark"
network_config_dir = "{self.folder}/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "crun"
static_dir = "{self.folder}/libpod"
tmp_dir = "{self.folder}/libpod-tmp"
volume_path = "{self.folder}/volumes"
""")
        (self.folder / "storage.conf").write_text(f"""
[storage]
driver = "{storage_driver(self.folder)}"
graphroot = "{self.folder}/storage"
runroot = "{self.folder}/run"
""")
        (self.folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        # An empty list: a name that is not here must be an error and no question to a registry.
        (self.folder / "registries.conf").write_text("unqualified-search-registries = []\n")
        self.environment = os.environ | {
            "CONTAINERS_CONF": f"{self.folder}/containers.conf", "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf",
            "CONTAINERS_REGISTRIES_CONF": f"{self.folder}/registries.conf", "TMPDIR": f"{self.folder}/tmp", "LANG": "C.UTF-8"}
        self.toolchain = None

    def run(self, *words, **options):
        return run(*words, env=self.environment, **options)

    # ---- Images ----

    def make_debian(self, cache=None):
        """The image of Debian, under the name that the Dockerfile has for it."""
        root, kept = self.folder / "debian", cache and Path(cache) / "debian-bookworm.tar"
        archive = self.folder / "debian.tar"
        if kept and kept.exists():
            archive = kept
        else:
            self.run("debootstrap", "--variant=minbase", "bookworm", root, MIRROR)
            shutil.rmtree(root / "var/cache/apt/archives")
            self.run("tar", "-C", root, "-cf", archive, ".")
            shutil.rmtree(root)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                partial = kept.with_suffix(f".{os.getpid()}-{time.time_ns()}")
                shutil.copy(archive, partial)
                partial.rename(kept)
        (self.folder / "sources.list").write_text(SOURCES)
        self.build_text(base_images()["DEBIAN_IMAGE"], 'FROM scratch\nADD image.tar /\nCOPY sources.list /etc/apt/\nCMD ["bash"]\n',
                        {"image.tar": archive, "sources.list": self.folder / "sources.list"})
        (self.folder / "debian.tar").unlink(missing_ok=True)

    def make_swift(self, binaries=None):
        """The image of Swift: Debian with the packages of the official one, and this machine's toolchain, which is mounted while
        it runs, for it is large. With `binaries`, a folder of programs: what takes its place hands those over."""
        packages = ("binutils",) if binaries else SWIFT_PACKAGES
        text = (f"FROM {base_images()['DEBIAN_IMAGE']}\n"
                f"RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends {' '.join(packages)} && rm -rf /var/lib/apt/lists/*\n")
        if binaries:
            text += "COPY --chmod=755 swift /usr/local/bin/swift\n"
            (self.folder / "swift").write_text(READY_MADE)
            self.toolchain = (Path(binaries).resolve(), "/opt/programs")
            self.build_text(base_images()["SWIFT_IMAGE"], text, {"swift": self.folder / "swift"})
            return
        found = shutil.which("swift")
        if not found:
            raise Failure("there is no 'swift' in PATH: install it, or name a folder of programs with --binaries")
        self.toolchain = (Path(found).resolve().parents[1], "/opt/swift/usr")
        text += "ENV PATH=/opt/swift/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        self.build_text(base_images()["SWIFT_IMAGE"], text, {})

    def build_text(self, name, text, files):
        """Builds an image of a few lines and files."""
        context = self.folder / "context"
        context.mkdir()
        for file, source in files.items():
            os.link(source, context / file) if source.stat().st_dev == context.stat().st_dev else shutil.copy(source, context / file)
        (context / "Dockerfile").write_text(text)
        self.run("buildah", "bud", "--isolation", "chroot", "--pull-never", "--signature-policy", self.folder / "policy.json", "-t", name, context)
        shutil.rmtree(context)

    def build(self, name, target=None, log=None):
        """Builds a target of build/Dockerfile as it is, as `docker build` would. Layers are kept, so that the second
        target is built of what the first one made."""
        words = ["buildah", "bud", "--isolation", "chroot", "--pull-never", "--layers", "--signature-policy", self.folder / "policy.json",
                 "--build-arg", f"REVISION={revision()}", "-v", f"{self.toolchain[0]}:{self.toolchain[1]}:ro", "-f", DOCKERFILE, "-t", name]
        output = self.run(*words, *(["--target", target] if target else []), ROOT)
        if log:
            Path(log).write_text(output)

    def config(self, name):
        """What the image says of itself: user, entry point, environment, labels."""
        return json.loads(self.run("buildah", "inspect", "--type", "image", name))["OCIv1"]["config"]

    def save(self, archive, *names):
        """Writes images into one file, which `docker load` reads, too."""
        self.run("podman", "save", "--quiet", "--multi-image-archive", "-o", archive, *names)

    def load(self, archive):
        self.run("podman", "load", "--quiet", "-i", archive)

    def unpack(self, name, to):
        """The image's root file system as a folder."""
        to.mkdir()
        container = self.run("podman", "create", "--pull", "never", name, "none").strip()
        try:
            archive = self.folder / "export.tar"
            self.run("podman", "export", "-o", archive, container)
            self.run("tar", "-C", to, "-xpf", archive)
            archive.unlink()
        finally:
            self.run("podman", "rm", container)

    # ---- Containers ----

    def start(self, image, name, *command, network="none", options=()):
        """Runs a container as a careful operator would with `docker run`: nothing writable, no capabilities, no way to more."""
        self.run("podman", "run", "--detach", "--pull", "never", "--name", name, "--network", network, "--read-only", "--read-only-tmpfs=false",
                 "--cap-drop", "all", "--security-opt", "no-new-privileges", *options, image, *command)
        return Container(self, name)

    def create(self, image, name, command, network, options):
        """A container with a command in place of the image's entry point, which is not started yet."""
        self.run("podman", "create", "--pull", "never", "--name", name, "--network", network, "--entrypoint", json.dumps(command[:1]),
                 *options, image, *command[1:])
        return Container(self, name)

    def profile(self, permit_io_uring, refusal=None):
        """The seccomp profile that podman has as its default, with io_uring taken out of it or put in. `refusal` is the error of
        what is refused: podman says ENOSYS, and Docker and containerd say EPERM. The file's path."""
        profile = json.loads(SECCOMP.read_text())
        calls = ["io_uring_enter", "io_uring_register", "io_uring_setup"]
        for group in profile["syscalls"]:
            group["names"] = [name for name in group["names"] if name not in calls]
        profile["syscalls"] = [group for group in profile["syscalls"] if group["names"]]
        if permit_io_uring:
            profile["syscalls"].append({"names": calls, "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}})
        if refusal:
            profile.update(defaultErrno=refusal, defaultErrnoRet=getattr(errno, refusal))
        path = self.folder / f"seccomp-{'with' if permit_io_uring else 'without'}-io-uring-{refusal}.json"
        path.write_text(json.dumps(profile))
        return path


class Container:
    def __init__(self, engine, name):
        self.engine, self.name = engine, name

    def inspect(self):
        return json.loads(self.engine.run("podman", "inspect", self.name))[0]

    @property
    def pid(self):
        return self.inspect()["State"]["Pid"]

    @property
    def log(self):
        """All that it wrote."""
        done = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True, env=self.engine.environment, check=False)
        return done.stdout + done.stderr

    def lines(self, message):
        """Log lines with that message, read."""
        found = []
        for line in self.log.splitlines():
            try:
                one = json.loads(line)
            except ValueError:
                continue
            if isinstance(one, dict) and one.get("msg") == message:
                found.append(one)
        return found

    def wait_line(self, message, seconds=60):
        def look():
            found = self.lines(message)
            if not found and not self.inspect()["State"]["Running"]:
                raise Failure(f"{self.name} ended before it said '{message}': {self.log[-2000:]}")
            return found
        return wait_until(look, seconds, f"{self.name} says '{message}'", lambda: self.log[-2000:])[0]

    def execute(self, *command):
        """Runs a command in it, as `docker exec` and `kubectl exec` do."""
        return self.engine.run("podman", "exec", self.name, *command)

    def signal(self, name):
        self.engine.run("podman", "kill", "--signal", name, self.name)

    def wait_end(self, seconds):
        """Its exit status."""
        wait_until(lambda: self.inspect()["State"]["Status"] in ("exited", "stopped"), seconds, f"{self.name} ends", lambda: self.log[-2000:])
        return self.inspect()["State"]["ExitCode"]

    def remove(self):
        self.engine.run("podman", "rm", "--force", "--time", "0", self.name)


def revision():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
