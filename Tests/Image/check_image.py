"""Builds the images of build/Dockerfile and judges them: what is in them, what they say of themselves, and how their programs run
as a container runtime runs them. script/check-image prepares what this needs.

    check_image.py FOLDER [--binaries FOLDER] [--cache FOLDER] [--save FILE]
"""

import argparse
import re
import stat
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import compose  # noqa: E402
import documented  # noqa: E402
import life  # noqa: E402
import yaml  # noqa: E402
from engine import DOCKERFILE, ROOT, Engine, Failure, base_images, run  # noqa: E402
from network import Network  # noqa: E402
from report import bad, expect, finish, ok, say, skipped, step  # noqa: E402

IMAGE, DEMO = "piko", "piko-demo-service"
PROGRAMS = {IMAGE: {"piko", "piko-supervisor", "piko-worker", "piko-agent"}, DEMO: {"piko-demo-service"}}
LOADER = "ld-linux"
# The only places that somebody else than root may write to.
WRITABLE = {"tmp": (0, 0o1777), "run/piko": (0, 0o1777)}


def check_texts():
    """Dockerfile, compose file and what belongs to it, as texts."""
    done = subprocess.run([Path(sys.executable).parent / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    expect(done.returncode == 0, "hadolint has nothing to say about build/Dockerfile", done.stdout)
    done = subprocess.run(["shellcheck", ROOT / "build/assemble-root"], capture_output=True, text=True, check=False)
    expect(done.returncode == 0, "shellcheck has nothing to say about build/assemble-root", done.stdout)
    for name, image in base_images().items():
        expect(re.search(r":[^:@]+$", image) and not image.endswith(":latest"), f"{name} names a version: {image}")
    package = (ROOT / "Package.swift").read_text()
    folders = {path.name for path in (ROOT / "Tests").iterdir() if path.is_dir() and any(path.iterdir())}
    targets = {name for name in folders if f'"{name}"' in package or f'"Tests/{name}"' in package}
    listed = set(re.findall(r"^Tests/(\S+)$", (ROOT / ".dockerignore").read_text(), re.M))
    expect(folders - targets == listed, ".dockerignore lets in of Tests the targets of Package.swift, and nothing else",
           " ".join(sorted(folders - targets ^ listed)))
    compose.check()


def check_chart(config, root):
    """The Helm chart and the plain manifests fit the image."""
    values = yaml.safe_load((ROOT / "operations/helm/piko/values.yaml").read_text())
    security = values["podSecurityContext"]
    user = f'{security["runAsUser"]}:{security["runAsGroup"]}'
    expect(config["User"] == user, f"the user of the Helm chart ({user}) is the image's")
    stateful = yaml.safe_load((ROOT / "operations/kubernetes/stateful-set.yaml").read_text())["spec"]["template"]["spec"]
    container = stateful["containers"][0]
    path = next(one.removeprefix("PATH=") for one in config["Env"] if one.startswith("PATH="))
    command = container["command"][0]
    expect(any((root / folder.lstrip("/") / command).exists() for folder in path.split(":")),
           f"the manifests' command, {command}, is on the image's PATH")
    ports = {f'{port["containerPort"]}/{port.get("protocol", "TCP").lower()}' for port in container["ports"]}
    expect(ports == set(config["ExposedPorts"]), f"the manifests' ports are the image's: {' '.join(sorted(ports))}")
    hidden = [mount["mountPath"] for mount in container["volumeMounts"] if (root / mount["mountPath"].lstrip("/")).is_dir()
              and any((root / mount["mountPath"].lstrip("/")).iterdir())]
    expect(not hidden, "the manifests' mounts hide nothing of the image", " ".join(hidden))


def check_config(engine, config):
    expect(re.fullmatch(r"[1-9]\d*:[1-9]\d*", config.get("User", "")), f"the image's user is a number other than 0: {config.get('User')}")
    expect(config.get("Entrypoint") == ["piko"] and config.get("Cmd") == ["--help"], "entry point piko, and help by default")
    expect(config.get("StopSignal") == "SIGTERM", "the signal that stops it is SIGTERM")
    expect("Healthcheck" not in config and "HEALTHCHECK" not in DOCKERFILE.read_text(), "it has no health check of its own")
    labels = config.get("Labels", {})
    for name in ("title", "description", "licenses", "version", "revision"):
        if not labels.get(f"org.opencontainers.image.{name}"):
            bad(f"the image has no label {name}")
    version = engine.run("podman", "run", "--rm", "--pull", "never", "--network", "none", IMAGE, "--version").split()[-1]
    chart = yaml.safe_load((ROOT / "operations/helm/piko/Chart.yaml").read_text())["appVersion"]
    expect(labels.get("org.opencontainers.image.version") == version == chart, f"label, program and chart have one version: {version}")
    text = engine.run("podman", "run", "--rm", "--pull", "never", "--network", "none", IMAGE)
    expect("Usage:" in text and "server" in text, "without arguments it prints help, with status 0")


def is_elf(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def check_files(name, root):
    """What is in an image. Prints all of it."""
    paths = sorted(path for path in root.rglob("*"))
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    say(f"files of {name}:")
    for path in files:
        about = path.stat()
        say(f"    {stat.filemode(about.st_mode)} {about.st_uid:>5} {about.st_size:>9} /{path.relative_to(root)}")
    size = sum(path.stat().st_size for path in files)
    own = sum((root / "usr/bin" / one).stat().st_size for one in PROGRAMS[name])
    say(f"size of {name}: {size / 1e6:.1f} MB in {len(files)} files, of which programs {own / 1e6:.1f} MB")
    elves = [path for path in files if is_elf(path)]
    programs = {path.name for path in files if path.stat().st_mode & 0o111 and not path.name.startswith((LOADER, "libc.so"))}
    expect(programs == PROGRAMS[name], f"{name}: nothing can be executed but {' '.join(sorted(PROGRAMS[name]))}",
           f"there is {' '.join(sorted(programs))}")
    scripts = [str(path.relative_to(root)) for path in files if path.read_bytes()[:2] == b"#!"]
    expect(not scripts, f"{name}: no script", " ".join(scripts))
    foreign = [path.name for path in elves if path.name not in PROGRAMS[name] and not path.name.startswith((LOADER, "lib"))]
    swift = [str(path.relative_to(root)) for path in files if re.search(r"swift|clang|^gcc|^(cc|ld|apt|dpkg|busybox|(ba|da)?sh)$", path.name)]
    expect(not foreign and not swift, f"{name}: no compiler, no Swift, no shell, no package manager", " ".join(foreign + swift))
    privileged = [str(path.relative_to(root)) for path in files if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]
    expect(not privileged, f"{name}: no file with setuid or setgid", " ".join(privileged))
    capable = subprocess.run(["getcap", "-r", root], capture_output=True, text=True, check=False).stdout.strip()
    expect(not capable, f"{name}: no file with capabilities", capable)
    writable = {}
    for path in paths:
        about = path.lstat()
        if not path.is_symlink() and (about.st_uid != 0 or about.st_mode & 0o022):
            writable[str(path.relative_to(root))] = (about.st_uid, stat.S_IMODE(about.st_mode))
    expect(writable == WRITABLE, f"{name}: only root could write, but to /tmp and /run/piko", str(writable))
    special = [str(path) for path in paths if not (path.is_symlink() or path.is_file() or path.is_dir())]
    broken = [str(path.relative_to(root)) for path in paths if path.is_symlink() and not inside(root, path).exists()]
    expect(not special and not broken, f"{name}: no device, no link that leads nowhere", " ".join(special + broken))
    loader = next(path for path in files if path.name.startswith(LOADER))
    used = set()
    for program in sorted(PROGRAMS[name]):
        text = run("chroot", root, f"/{loader.relative_to(root)}", "--list", f"/usr/bin/{program}")
        expect("not found" not in text, f"{name}: {program} finds its {text.count('=> /')} libraries in it", text)
        used |= set(re.findall(r"=> \S*/(\S+)", text))
    if name == IMAGE:
        unused = {path.name for path in elves if path.name.startswith("lib")} - used
        expect(not unused, f"{name}: no library that no program loads", " ".join(unused))
        for program in sorted(PROGRAMS[name]):
            sections = run("readelf", "-SW", root / "usr/bin" / program)
            expect(".symtab" in sections and ".debug_info" not in sections,
                   f"{name}: {program} has the names that perf needs, and no lines of source")
    packages = sorted(path.name for path in (root / "var/lib/dpkg/status.d").iterdir())
    without = [one for one in packages if not (root / "usr/share/doc" / one / "copyright").exists()]
    expect(packages and not without, f"{name}: scanners find the packages that files are of, with copyrights: {' '.join(packages)}",
           " ".join(without))
    authorities = (root / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE")
    expect(authorities > 50, f"{name}: certificates of {authorities} public authorities")


def check_symbols(engine):
    """The target with lines of source has the image's programs: without those lines they are the same to the byte."""
    engine.build("piko-symbols", target="symbols")
    symbols, differ = engine.folder / "symbols", []
    engine.unpack("piko-symbols", symbols)
    for name, programs in PROGRAMS.items():
        for program in programs:
            run("strip", "--strip-debug", "-o", engine.folder / "stripped", symbols / program)
            if (engine.folder / "stripped").read_bytes() != (engine.folder / f"root-{name}/usr/bin" / program).read_bytes():
                differ.append(program)
    without = [path.name for path in symbols.glob("piko*") if ".debug_line" not in run("readelf", "-SW", path)]
    expect(not differ and not without, "the target symbols has the same programs, with lines of source", " ".join(differ + without))


def inside(root, path):
    """What a link leads to when the image is the root."""
    target = path.readlink()
    return root / str(target).lstrip("/") if target.is_absolute() else path.parent / target


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="an empty folder, for everything")
    parser.add_argument("--binaries", help="programs that are built already")
    parser.add_argument("--cache", help="a folder in which the image of Debian is kept for the next time")
    parser.add_argument("--save", help="a file for both images, which docker load and podman load read")
    given = parser.parse_args()
    step("texts")
    check_texts()
    engine = Engine(given.folder)
    step(f"the images that the Dockerfile starts from: {', '.join(base_images().values())}")
    engine.make_debian(given.cache)
    engine.make_swift(given.binaries)
    if given.binaries:
        skipped(f"the compiler: the build's swift hands over the programs of {given.binaries}")
    step("build/Dockerfile")
    engine.build(IMAGE, log=engine.folder / "build.log")
    engine.build(DEMO, target="demo-service")
    steps = (engine.folder / "build.log").read_text().count("STEP ")
    ok(f"buildah has built build/Dockerfile as it is ({steps} steps), and its target demo-service")
    step("what is in the images")
    for name in (IMAGE, DEMO):
        root = engine.folder / f"root-{name}"
        engine.unpack(name, root)
        check_files(name, root)
    config = engine.config(IMAGE)
    check_config(engine, config)
    check_symbols(engine)
    check_chart(config, engine.folder / f"root-{IMAGE}")
    if given.save:
        Path(given.save).unlink(missing_ok=True)
        engine.save(given.save, IMAGE, DEMO)
        ok(f"saved: {given.save}")
    network = Network()
    life.check(engine, network, IMAGE, DEMO)
    documented.check(engine, IMAGE, DEMO)
    compose.try_demo(engine, IMAGE, DEMO)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        bad(str(failure))
    finish("script/check-image")
