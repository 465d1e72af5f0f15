"""A copy of the stack's files in a temporary folder, so that a test may change them and nobody's .env
plays a part. `COMPOSE` is the compose command; tests/stack/run finds it."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ["docker-compose.yml", ".env.example", "Dockerfile", "tools/stack", "infra"]
COMMAND_SECONDS_MAX = 60


class Stack:
    def __init__(self, with_env=True):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="innover-stack-"))
        for name in FILES:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target)
            else:
                shutil.copy2(ROOT / name, target)
        if with_env:
            done = self.tool("secrets")
            assert done.returncode == 0, done.stderr

    def close(self):
        shutil.rmtree(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def run(self, command, env=None):
        """Runs a command in the copy, with nothing of this shell's settings."""
        clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(command, cwd=self.folder, env=clean | (env or {}), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS_MAX)

    def tool(self, *arguments, env=None):
        return self.run(["tools/stack", *arguments], env)

    def compose(self, *arguments, files=("docker-compose.yml",), env=None):
        named = [part for file in files for part in ("-f", file)]
        return self.run([*os.environ["COMPOSE"].split(), *named, *arguments], env)

    def config(self, files=("docker-compose.yml",), env=None):
        """The whole application as compose understands it."""
        done = self.compose("config", "--format", "json", files=files, env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def edit(self, name, old, new):
        """Replaces a text that must be there."""
        file = self.folder / name
        text = file.read_text()
        assert old in text, f"{name} has no {old!r}"
        file.write_text(text.replace(old, new))

    def set(self, name, value):
        """Gives a variable of .env another value; without one it is taken out."""
        file = self.folder / ".env"
        lines = [line for line in file.read_text().splitlines() if not line.startswith(f"{name}=")]
        if value is not None:
            lines.append(f"{name}={value}")
        file.write_text("\n".join(lines) + "\n")

    def secret(self, name):
        for line in (self.folder / ".env").read_text().splitlines():
            if line.startswith(f"{name}="):
                return line.partition("=")[2]
        raise KeyError(name)


def secret_names():
    """The variables of .env.example that nobody may leave as they are."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return [line.removesuffix("=") for line in lines if line.endswith("_PASSWORD=")]
