"""Our image: what is staged for it is what spin.toml names, and what docker-compose.yml runs it with are
options it has."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest

from harness import ROOT, Stack


class Staged(unittest.TestCase):
    def setUp(self):
        """The project with empty files where a build puts its own."""
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="innover-image-"))
        self.addCleanup(shutil.rmtree, self.top)
        self.manifest = tomllib.loads((ROOT / "spin.toml").read_text())
        shutil.copy(ROOT / "spin.toml", self.top)
        shutil.copytree(ROOT / "infra", self.top / "infra")
        for folder in (ROOT / "components").glob("*/migrations"):
            shutil.copytree(folder, self.top / folder.relative_to(ROOT))
        for file in [*self.wasm(), "target/release/innover"]:
            (self.top / file).parent.mkdir(parents=True, exist_ok=True)
            (self.top / file).touch()

    def wasm(self):
        """Every file a component is or has plugged in."""
        for component in self.manifest["component"].values():
            yield component["source"]
            for dependency in component.get("dependencies", {}).values():
                if isinstance(dependency, dict) and "path" in dependency:
                    yield dependency["path"]

    def migrations(self):
        for component in self.manifest["component"].values():
            folder = component.get("tool", {}).get("innover", {}).get("migrations")
            if folder:
                yield folder

    def stage(self):
        return subprocess.run(["infra/innover/stage", self.top / "stage"], cwd=self.top, capture_output=True, text=True)

    def test_everything_spin_toml_names_is_in_the_image_where_it_is_looked_for(self):
        done = self.stage()
        self.assertEqual(done.returncode, 0, done.stderr)
        app = self.top / "stage/opt/innover"
        wanted = ["spin.toml", *self.wasm()]
        for folder in self.migrations():
            wanted += [str(file.relative_to(ROOT)) for file in (ROOT / folder).glob("*.sql")]
        self.assertGreater(len(wanted), 20)
        self.assertEqual([file for file in wanted if not (app / file).is_file()], [])
        for program in ("innover", "innover-ready"):
            self.assertTrue(os.access(self.top / "stage/usr/local/bin" / program, os.X_OK))

    def test_sources_and_secrets_are_not(self):
        (self.top / ".env").write_text("REDIS_PASSWORD=x")
        self.stage()
        kinds = {file.suffix for file in (self.top / "stage").rglob("*") if file.is_file()}
        self.assertEqual(kinds, {"", ".toml", ".wasm", ".sql"})

    def test_a_component_that_was_not_built_stops_it(self):
        (self.top / next(self.wasm())).unlink()
        self.assertNotEqual(self.stage().returncode, 0)


class Dockerfile(unittest.TestCase):
    text = (ROOT / "Dockerfile").read_text()

    def test_its_bases_have_exact_versions_and_it_does_not_run_as_root(self):
        bases = re.findall(r"^FROM (\S+)", self.text, re.M)
        self.assertEqual(len(bases), 2)
        for base in bases:
            self.assertRegex(base, r":\d+\.\d+")
        last = self.text.rpartition("\nFROM ")[2]
        user = re.search(r"^USER (\d+):(\d+)$", last, re.M)
        self.assertTrue(user and int(user[1]) > 0 and int(user[2]) > 0)
        self.assertIn('ENTRYPOINT ["innover"]', last)
        self.assertIn("STOPSIGNAL SIGTERM", last)
        self.assertRegex(last, r"(?m)^HEALTHCHECK --interval=\S+ .*CMD \[\"/usr/local/bin/innover-ready\"\]$")

    def test_the_compiler_is_the_one_the_workspace_asks_for(self):
        wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
        self.assertIn(f"FROM rust:{wanted}.", self.text)

    def test_cargo_gets_every_member_of_the_workspace(self):
        members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
        ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        for member in members:
            top = member.partition("/")[0]
            self.assertNotIn(top, ignored)
        self.assertIn("target", ignored)
        self.assertIn(".env*", ignored)


BINARY = ROOT / "target/release/innover"


@unittest.skipUnless(BINARY.exists(), "target/release/innover is not built")
class Commands(unittest.TestCase):
    def test_every_option_the_stack_gives_our_binary_is_one_it_has(self):
        with Stack() as stack:
            services = stack.config()["services"]
        ours = {name: service for name, service in services.items() if "build" in service}
        self.assertEqual(set(ours), {"migrate", "innover", "bridge"})
        for name, service in ours.items():
            command, *options = service["command"]
            done = subprocess.run([BINARY, command, "--help"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            for option in options:
                if option.startswith("--"):
                    known = re.search(rf"(?m)^\s+(-\w, )?{option}\b", done.stdout)
                    self.assertTrue(known, f"{name}: innover {command} has no {option}")


if __name__ == "__main__":
    unittest.main()
