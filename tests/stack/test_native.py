"""What the stack's containers run, run here: Redis by the very command of docker-compose.yml, PostgreSQL in
CockroachDB's place for the URLs, the health check of our image. CockroachDB, Redpanda and Docker
themselves are not here; tests that need a program that is missing are skipped and say so."""
import http.server
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from harness import ROOT, Stack

INNOVER = ROOT / "target/release/innover"
POSTGRES = ROOT / "tests/services/postgres"
READY_SECONDS_MAX = 20


def eventually(condition, what):
    until = time.monotonic() + READY_SECONDS_MAX
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {READY_SECONDS_MAX} s: {what}")
        time.sleep(0.05)


def folder_of(test):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="innover-native-"))
    test.addCleanup(shutil.rmtree, folder)
    return folder


@unittest.skipUnless(shutil.which("redis-server") and shutil.which("redis-cli"), "there is no redis-server")
class Redis(unittest.TestCase):
    def setUp(self):
        self.folder = folder_of(self)
        stack = Stack()
        self.addCleanup(stack.close)
        self.service = stack.config()["services"]["redis"]
        self.password = stack.secret("REDIS_PASSWORD")
        self.socket = self.folder / "socket"
        # The health check's `redis-cli`, led to this server; a socket needs no free port.
        (self.folder / "bin").mkdir()
        client = self.folder / "bin/redis-cli"
        client.write_text(f'#!/bin/sh\nexec {shutil.which("redis-cli")} -s {self.socket} "$@"\n')
        client.chmod(0o755)
        self.path = f"{client.parent}:{os.environ['PATH']}"

    def start(self):
        """The container's command; only where its data and its door are is this machine's."""
        command = [str(self.folder) if part == "/data" else part for part in self.service["command"]]
        with open(self.folder / "log", "a") as log:
            server = subprocess.Popen([*command, "--port", "0", "--unixsocket", str(self.socket)],
                                      stdout=log, stderr=log)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        eventually(lambda: self.healthy(self.password), "redis is healthy")
        return server

    def healthy(self, password):
        kind, script = self.service["healthcheck"]["test"]
        self.assertEqual(kind, "CMD-SHELL")
        # compose writes a dollar that is meant as $$.
        done = subprocess.run(["/bin/sh", "-c", script.replace("$$", "$")], capture_output=True,
                              env={"PATH": self.path, "REDISCLI_AUTH": password})
        return done.returncode == 0

    def say(self, *words, password=None):
        environment = {"PATH": self.path} | ({"REDISCLI_AUTH": password} if password else {})
        done = subprocess.run(["redis-cli", *words], env=environment, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()

    def test_only_the_password_of_env_opens_it(self):
        self.start()
        self.assertIn("NOAUTH", self.say("SET", "a", "1"))
        self.assertIn("WRONGPASS", self.say("GET", "a", password="change-me-redis"))
        self.assertEqual(self.say("SET", "a", "1", password=self.password), "OK")
        self.assertFalse(self.healthy("change-me-redis"))
        self.assertFalse(self.healthy(""))

    def test_a_job_that_was_pushed_is_there_after_kill_9(self):
        server = self.start()
        self.say("LPUSH", "profile-tasks", "a job", password=self.password)
        server.send_signal(signal.SIGKILL)
        server.wait()
        self.assertFalse(self.healthy(self.password))
        self.start()
        self.assertEqual(self.say("LRANGE", "profile-tasks", "0", "-1", password=self.password), "a job")
        self.assertFalse((self.folder / "dump.rdb").exists())

    def test_a_full_queue_refuses_a_push_and_forgets_nothing(self):
        self.start()
        answer = self.say("CONFIG", "GET", "maxmemory", password=self.password).split()
        limit = int(self.service["deploy"]["resources"]["limits"]["memory"])
        # Rewriting the log may take as much again.
        self.assertLessEqual(2 * int(answer[1]), limit)
        self.say("SET", "kept", "x" * 1000, password=self.password)
        self.say("CONFIG", "SET", "maxmemory", "1", password=self.password)
        self.assertIn("OOM", self.say("LPUSH", "q", "y" * 1000, password=self.password))
        self.assertEqual(self.say("STRLEN", "kept", password=self.password), "1000")


def programs_of_postgres():
    debian = pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")
    for place in filter(None, [shutil.which("initdb"), *sorted(map(str, debian), reverse=True)]):
        folder = pathlib.Path(place).resolve().parent
        if (folder / "psql").exists():
            return folder
    return None


@unittest.skipUnless(programs_of_postgres(), "there is no PostgreSQL")
class Postgres(unittest.TestCase):
    def setUp(self):
        self.top = folder_of(self)
        self.folder = self.top / "postgres"
        self.url = self.service("start")
        self.addCleanup(self.service, "stop")

    def service(self, action):
        done = subprocess.run([POSTGRES, action, self.folder], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def ask(self, url, sql):
        """What psql prints, or its error."""
        done = subprocess.run([programs_of_postgres() / "psql", url, "-XAtqc", sql], capture_output=True, text=True,
                              env={"PATH": os.environ["PATH"], "HOME": str(self.top)}, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else done.stderr

    def test_what_was_committed_before_a_kill_is_there_again_under_the_same_url(self):
        self.ask(self.url, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        self.service("kill")
        self.assertIn("refused", self.ask(self.url, "SELECT 1"))
        self.assertEqual(self.service("again"), self.url)
        self.assertEqual(self.ask(self.url, "SELECT count(*) FROM t"), "1000")

    def test_it_asks_for_the_password_and_writes_through_to_the_disk(self):
        wrong = self.url.replace("//postgres:", "//postgres:x")
        self.assertIn("password authentication failed", self.ask(wrong, "SELECT 1"))
        for setting, value in (("fsync", "on"), ("server_encoding", "UTF8"), ("listen_addresses", "127.0.0.1")):
            self.assertEqual(self.ask(self.url, f"SHOW {setting}"), value)

    @unittest.skipUnless(shutil.which("openssl"), "there is no openssl")
    def test_the_urls_of_the_stack_are_a_clients_and_hold_to_the_authority(self):
        self.with_tls()
        stack = Stack()
        self.addCleanup(stack.close)
        services = stack.config()["services"]
        password = stack.secret("DATABASE_ADMIN_PASSWORD")
        self.ask(self.url, f"CREATE ROLE innover_admin SUPERUSER LOGIN PASSWORD '{password}'")
        self.ask(self.url, "CREATE DATABASE defaultdb")
        self.ask(self.url, "CREATE ROLE innover_wallet LOGIN PASSWORD 'service'")
        self.ask(self.url, "CREATE DATABASE innover_wallet OWNER innover_wallet")

        admin, server = (self.here(services["migrate"]["environment"][name])
                         for name in ("DATABASE_ADMIN_URL", "DATABASE_URL"))
        who = ("SELECT current_user || ' ' || current_database() || ' ' || ssl FROM pg_stat_ssl"
               " WHERE pid = pg_backend_pid()")
        self.assertEqual(self.ask(admin, who), "innover_admin defaultdb true")
        self.assertIn("password authentication failed", self.ask(admin.replace(password, "change-me"), who))
        self.assertIn("no encryption", self.ask(admin.replace("=require", "=disable"), who))

        # Each service puts its own role and database into the server's URL.
        for name in ("innover", "bridge"):
            self.assertEqual(self.here(services[name]["environment"]["DATABASE_URL"]), server)
        own = server.replace("postgres://", "postgres://innover_wallet:service@").replace("?", "/innover_wallet?")
        self.assertEqual(self.ask(own, who), "innover_wallet innover_wallet true")
        self.assertIn("no encryption", self.ask(own.replace("verify-full", "disable"), who))
        self.assertIn("certificate verify failed", self.ask(own.replace("ca.crt", "other.crt"), who))
        self.assertIn("does not match host name", self.ask(own.replace("@cockroach", "@elsewhere"), who))

    @unittest.skipUnless(INNOVER.exists(), "target/release/innover is not built")
    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("unshare"), "only root can give a name to this machine")
    @unittest.skipUnless(shutil.which("openssl"), "there is no openssl")
    def test_the_migrate_job_makes_a_database_and_a_role_per_service_and_the_bridges_own_and_can_be_repeated(self):
        self.with_tls()
        stack = Stack()
        self.addCleanup(stack.close)
        service = stack.config()["services"]["migrate"]
        password = stack.secret("DATABASE_ADMIN_PASSWORD")
        self.ask(self.url, f"CREATE ROLE innover_admin CREATEDB CREATEROLE LOGIN PASSWORD '{password}'")
        self.ask(self.url, "CREATE DATABASE defaultdb")
        environment = service["environment"] | {"INNOVER_STATE_DIR": str(self.top / "state"), "PATH": os.environ["PATH"]}
        for name in ("DATABASE_URL", "DATABASE_ADMIN_URL"):
            environment[name] = self.at_this_port(environment[name])
        # A name for this server that nobody else on this machine sees.
        (self.top / "hosts").write_text("127.0.0.1 localhost cockroach\n")
        script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
        named = ["unshare", "--mount", "sh", "-c", script, "sh", self.top / "hosts"]
        for _ in range(2):
            done = subprocess.run([*named, INNOVER, *service["command"]], cwd=ROOT, env=environment,
                                  capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
        owners = self.ask(self.url, "SELECT datname || ' ' || rolname FROM pg_database d JOIN pg_roles r"
                                    " ON d.datdba = r.oid WHERE datname LIKE 'innover\\_%' ORDER BY 1").splitlines()
        self.assertIn("innover_ledger innover_ledger", owners)
        self.assertIn("innover_bridge innover_bridge", owners)
        self.assertEqual([pair for pair in owners if len(set(pair.split())) != 1], [])
        self.assertTrue((self.top / "state/secrets.toml").exists())
        # Each into its own and into no other.
        enters = ("SELECT r.rolname || ' ' || d.datname FROM pg_roles r, pg_database d"
                  " WHERE r.rolname LIKE 'innover\\_%' AND r.rolname <> 'innover_admin'"
                  " AND d.datname LIKE 'innover\\_%' AND has_database_privilege(r.oid, d.oid, 'CONNECT') ORDER BY 1")
        self.assertEqual(self.ask(self.url, enters).splitlines(), [f"{pair.split()[0]} {pair.split()[0]}" for pair in owners])

    def here(self, url):
        """The URL with this server behind its name, as the engine's name server would have it."""
        return f"{self.at_this_port(url)}&hostaddr=127.0.0.1"

    def at_this_port(self, url):
        port = self.url.rpartition(":")[2].partition("/")[0]
        self.assertIn("cockroach:26257", url)
        return url.replace("cockroach:26257", f"cockroach:{port}").replace("/certs/", f"{self.top}/")

    def with_tls(self):
        """Certificates as the stack's own: an authority, and one with the names infra/cockroachdb/certs asks for."""
        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.top)

        fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        for name in ("ca", "other"):
            openssl("req", "-x509", *fresh, "-keyout", f"{name}.key", "-out", f"{name}.crt",
                    "-days", "2", "-subj", f"/CN={name}")
        openssl("req", *fresh, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node")
        names = re.search(r"^names=\((.*)\)$", (ROOT / "infra/cockroachdb/certs").read_text(), re.M)[1].split()
        kinds = ",".join(("IP:" if name[0].isdigit() else "DNS:") + name for name in names)
        (self.top / "names").write_text(f"subjectAltName={kinds}\n")
        openssl("x509", "-req", "-in", "node.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names", "-out", "node.crt")
        data = self.folder / "data"
        owner = data.stat()
        for name in ("node.crt", "node.key"):
            shutil.copy(self.top / name, data / name)
            os.chown(data / name, owner.st_uid, owner.st_gid)
            os.chmod(data / name, 0o600)
        # Nobody gets in without TLS.
        rules = data / "pg_hba.conf"
        rules.write_text("hostssl all all 127.0.0.1/32 scram-sha-256\nlocal all all scram-sha-256\n")
        settings = {"ssl": "on", "ssl_cert_file": "node.crt", "ssl_key_file": "node.key"}
        with open(data / "postgresql.conf", "a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.service("stop")
        self.assertEqual(self.service("again"), self.url)


class Ready(unittest.TestCase):
    """infra/innover/ready, the health check of our image."""

    def check(self, listen):
        environment = {"PATH": os.environ["PATH"], "INNOVER_MANAGEMENT_LISTEN": listen}
        return subprocess.run([ROOT / "infra/innover/ready"], env=environment, capture_output=True,
                              timeout=30).returncode

    def serve(self, answer):
        paths = []

        class Management(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                paths.append(self.path)
                answer(self)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Management)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server.server_address[1], paths

    def test_only_a_ready_platform_is_healthy(self):
        for status, well in ((200, True), (503, False), (404, False), (500, False)):
            def answer(request, status=status):
                request.send_response(status)
                request.end_headers()
                request.wfile.write(b'{"status": "200"}\n')

            port, paths = self.serve(answer)
            # As in the container, where it listens on every address.
            self.assertEqual(self.check(f"0.0.0.0:{port}") == 0, well, status)
            self.assertEqual(paths, ["/readiness"])

    def test_a_silent_or_absent_platform_is_not(self):
        port, _ = self.serve(lambda request: time.sleep(5))
        started = time.monotonic()
        self.assertNotEqual(self.check(f"0.0.0.0:{port}"), 0)
        self.assertLess(time.monotonic() - started, 4.5)
        self.assertNotEqual(self.check("127.0.0.1:1"), 0)


if __name__ == "__main__":
    unittest.main()
