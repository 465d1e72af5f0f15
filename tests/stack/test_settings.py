"""tools/stack: what of .env it refuses, and what it writes."""
import os
import re
import stat
import unittest

from harness import ROOT, Stack, secret_names


class Settings(unittest.TestCase):
    def setUp(self):
        self.stack = Stack()
        self.addCleanup(self.stack.close)

    def refused(self, *texts, env=None):
        done = self.stack.tool("settings", env=env)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        for text in texts:
            self.assertIn(text, done.stderr)
        return done.stderr

    def test_fresh_secrets_are_good_and_differ(self):
        self.assertEqual(self.stack.tool("settings").returncode, 0)
        values = [self.stack.secret(name) for name in secret_names()]
        self.assertEqual(len(set(values)), len(values))
        with Stack() as other:
            self.assertNotIn(other.secret("REDIS_PASSWORD"), values)

    def test_the_example_itself_is_refused_with_every_secret_named_at_once(self):
        self.assertEqual(secret_names(), ["REDIS_PASSWORD", "DATABASE_ADMIN_PASSWORD"])
        (self.stack.folder / ".env").write_text((ROOT / ".env.example").read_text())
        self.refused(*[f"{name} is not set" for name in secret_names()])
        # Also by who goes past tools/stack.
        done = self.stack.compose("config")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("REDIS_PASSWORD is not set", done.stderr)

    def test_each_missing_empty_short_or_unusable_secret_is_refused_by_name(self):
        cases = [(None, "is not set"), ("", "is not set"), ("''", "is not set"), ("   ", "is not set"),
                 ("change-me-later-please", "placeholder"), ('"change-me-redis-now"', "placeholder"),
                 ("short", "shorter than"), ("0123456789abcde", "shorter than"),
                 ("with/a/slash/and/more", "characters other than"), ("0123456789abcdef$HOME", "characters other than"),
                 ("0123456789@abcdef", "characters other than"), ("# 0123456789abcdef", None)]
        for name in secret_names():
            good = self.stack.secret(name)
            for value, reason in cases:
                with self.subTest(name=name, value=value):
                    self.stack.set(name, value)
                    said = self.refused(name, *([reason] if reason else []))
                    others = [other for other in secret_names() if other != name]
                    self.assertFalse([other for other in others if other in said], said)
            self.stack.set(name, good)

    def test_nothing_is_started_with_wrong_settings(self):
        self.stack.set("REDIS_PASSWORD", "change-me")
        done = self.stack.tool("up")
        self.assertEqual(done.returncode, 2)
        self.assertIn("REDIS_PASSWORD", done.stderr)

    def test_without_an_env_file_it_says_how_to_get_one(self):
        (self.stack.folder / ".env").unlink()
        self.refused("tools/stack secrets", *secret_names())

    def test_quotes_export_and_comments_are_read_as_compose_reads_them(self):
        good = self.stack.secret("REDIS_PASSWORD")
        for written in (f'"{good}"', f"'{good}'", f"{good} # for Redis", f"  {good}  "):
            with self.subTest(written=written):
                self.stack.set("REDIS_PASSWORD", written)
                self.assertEqual(self.stack.tool("settings").returncode, 0)
                redis = self.stack.config()["services"]["redis"]
                self.assertEqual(redis["environment"]["REDISCLI_AUTH"], good)

    def test_the_shell_goes_before_the_file(self):
        self.refused("REDIS_PASSWORD", env={"REDIS_PASSWORD": "change-me-0123456789"})
        self.stack.set("REDIS_PASSWORD", None)
        done = self.stack.tool("settings", env={"REDIS_PASSWORD": "0123456789abcdef"})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_secrets_are_never_written_over_and_are_the_owners_alone(self):
        file = self.stack.folder / ".env"
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        before = file.read_bytes()
        done = self.stack.tool("secrets")
        self.assertEqual(done.returncode, 2)
        self.assertEqual(file.read_bytes(), before)
        left = [name for name in os.listdir(self.stack.folder) if name.startswith(".env.new")]
        self.assertEqual(left, [])

    def test_dev_users_are_not_offered_to_other_machines(self):
        self.stack.set("STACK_GATEWAY", "0.0.0.0:3000")
        self.refused("STACK_GATEWAY", "INNOVER_PROFILE=dev")
        self.stack.set("INNOVER_PROFILE", "prod")
        self.assertEqual(self.stack.tool("settings").returncode, 0)

    def test_an_address_has_a_host_and_a_port(self):
        for name in (
                "STACK_GATEWAY", "STACK_MANAGEMENT", "STACK_BRIDGE_MANAGEMENT", "STACK_COCKROACH_CONSOLE",
                "STACK_REDIS"):
            for value in ("3000", ":3000", "127.0.0.1", "127.0.0.1:http", "localhost:3000"):
                with self.subTest(name=name, value=value):
                    self.stack.set(name, value)
                    self.refused(name)
            self.stack.set(name, "127.0.0.1:3999")

    def test_without_docker_it_says_what_it_needs(self):
        for action in ("up", "down", "status"):
            done = self.stack.tool(action, env={"PATH": "/nowhere:" + ":".join(self.basic_path())})
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("Docker", done.stderr)

    def basic_path(self):
        """A folder with everything of PATH but Docker."""
        folder = self.stack.folder / "path"
        if not folder.exists():
            folder.mkdir()
            for name in ("bash", "env", "sed", "grep", "tail", "dirname", "cat"):
                for place in os.environ["PATH"].split(":"):
                    if os.access(f"{place}/{name}", os.X_OK):
                        (folder / name).symlink_to(f"{place}/{name}")
                        break
        return [str(folder)]

    def test_the_example_has_every_variable_that_is_read_and_no_other(self):
        files = [ROOT / "docker-compose.yml", *sorted((ROOT / "infra/publish").iterdir())]
        used = {name for file in files for name in re.findall(r"(?<!\$)\$\{([A-Z_][A-Z0-9_]*)", file.read_text())}
        lines = (ROOT / ".env.example").read_text().splitlines()
        known = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
        self.assertEqual(sorted(known), sorted(used))


if __name__ == "__main__":
    unittest.main()
