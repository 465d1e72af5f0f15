"""docker-compose.yml, read by compose: it is valid, holds to policy.py, and starts things in order.
Each check is shown a broken file, too."""
import copy
import unittest

import policy
from harness import Stack, secret_names

ALL_FILES = (
    "docker-compose.yml", "infra/publish/bridge.yml", "infra/publish/cockroach-console.yml", "infra/publish/redis.yml")


class Compose(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = Stack()
        cls.addClassCleanup(cls.stack.close)
        cls.config = cls.stack.config()
        cls.services = cls.config["services"]

    def test_the_file_is_valid_and_every_container_keeps_to_the_policy(self):
        self.assertEqual(policy.problems(self.config), [])

    def test_what_is_published_on_request_is_valid_and_stays_on_this_machine(self):
        asked = {
            "STACK_BRIDGE_MANAGEMENT": "127.0.0.1:3002", "STACK_COCKROACH_CONSOLE": "127.0.0.1:8080",
            "STACK_REDIS": "127.0.0.1:6379"}
        config = self.stack.config(ALL_FILES, asked)
        self.assertEqual(policy.problems(config), [])
        published = {name: [port["published"] for port in service["ports"]]
                     for name, service in config["services"].items() if service.get("ports")}
        self.assertEqual(published, {
            "innover": ["3000", "3001"], "bridge": ["3002"], "cockroach-1": ["8080"], "redis": ["6379"]})
        for name in published:
            self.assertEqual(set(config["services"][name]["networks"]), {"inside", "edge"})
        self.assertEqual(config["services"]["cockroach-1"]["networks"]["inside"], {"aliases": ["cockroach"]})
        done = self.stack.compose("config", files=ALL_FILES)
        self.assertNotEqual(done.returncode, 0, "published without being asked for")

    def test_only_the_gateway_and_management_are_published(self):
        published = {name for name, service in self.services.items() if service.get("ports")}
        self.assertEqual(published, {"innover"})
        outside = {name for name, service in self.services.items() if "edge" in (service.get("networks") or {})}
        self.assertEqual(outside, {"innover"})

    def test_compose_itself_refuses_an_empty_or_missing_secret_by_name(self):
        for name in secret_names():
            good = self.stack.secret(name)
            for value in (None, ""):
                with self.subTest(name=name, value=value):
                    self.stack.set(name, value)
                    done = self.stack.compose("config")
                    self.assertNotEqual(done.returncode, 0)
                    self.assertIn(name, done.stderr)
            self.stack.set(name, good)

    def test_a_broken_file_fails(self):
        breaks = [
            ("an unknown key", "    healthcheck: *answers_ready", "    helthcheck: *answers_ready"),
            ("an unknown condition", "redis: {condition: service_healthy}", "redis: {condition: service_well}"),
            ("a volume that is not declared", "redis:/data", "rediss:/data"),
            ("a network that is not declared", "networks: [inside, edge]", "networks: [inside, edges]"),
            ("a service that is not there", "migrate: {condition", "migrations: {condition"),
            ("a circle", "cockroach-1: {condition: service_started}", "cockroach-init: {condition: service_started}"),
            ("no YAML", "services:", "services: ["),
        ]
        for what, old, new in breaks:
            with self.subTest(what), Stack() as stack:
                stack.edit("docker-compose.yml", old, new)
                done = stack.compose("config", "--quiet")
                self.assertNotEqual(done.returncode, 0, f"{what} was accepted")

    def test_each_rule_of_the_policy_is_broken_by_a_file_that_breaks_it(self):
        def change(name, **values):
            def apply(config):
                config["services"][name].update(values)
            return apply

        def drop(name, *path):
            def apply(config):
                place = config["services"][name]
                for part in path[:-1]:
                    place = place[part]
                del place[path[-1]]
            return apply

        def wait(name, needed):
            def apply(config):
                config["services"][name]["depends_on"][needed]["condition"] = "service_started"
            return apply

        port = {"target": 3000, "published": "3000", "protocol": "tcp", "mode": "ingress"}
        cases = [
            ("redis", change("redis", image="redis:latest")),
            ("redis", change("redis", image="redis")),
            ("redis", change("redis", image="redis:7")),
            ("cockroach-2", drop("cockroach-2", "deploy", "resources", "limits", "pids")),
            ("migrate", drop("migrate", "deploy")),
            ("bridge", drop("bridge", "healthcheck")),
            ("bridge", drop("bridge", "restart")),
            ("redis", change("redis", cap_add=["NET_ADMIN"])),
            ("redis", drop("redis", "cap_drop")),
            ("redpanda", drop("redpanda", "security_opt")),
            ("innover", drop("innover", "read_only")),
            ("innover", drop("innover", "logging")),
            ("innover", change("innover", ports=[port])),
            ("innover", change("innover", ports=[port | {"host_ip": "0.0.0.0"}])),
            ("innover", wait("innover", "migrate")),
            ("bridge", wait("bridge", "redis")),
            ("network inside", lambda config: config["networks"]["inside"].pop("internal")),
        ]
        for name, break_it in cases:
            broken = copy.deepcopy(self.config)
            break_it(broken)
            found = policy.problems(broken)
            self.assertTrue(any(problem.startswith(f"{name}:") for problem in found), (name, found))

    def test_certificates_come_first_then_init_then_the_bootstrap_then_the_platform(self):
        completed, healthy, started = "service_completed_successfully", "service_healthy", "service_started"

        def waits(name):
            return {needed: how["condition"] for needed, how in self.services[name]["depends_on"].items()}

        nodes = ["cockroach-1", "cockroach-2", "cockroach-3"]
        self.assertNotIn("depends_on", self.services["cockroach-certs"])
        for node in nodes:
            self.assertEqual(waits(node)["cockroach-certs"], completed)
        self.assertEqual(waits("cockroach-init"), {node: started for node in nodes})
        self.assertEqual(waits("migrate"), {"cockroach-init": completed} | {node: healthy for node in nodes})
        servers = {node: healthy for node in nodes} | {"redis": healthy, "redpanda": healthy}
        self.assertEqual(waits("innover"), {"migrate": completed} | servers)
        self.assertEqual(waits("bridge"), {"migrate": completed, "innover": healthy} | servers)

    def test_every_job_is_waited_for_so_that_compose_waits_for_its_end(self):
        jobs = {name for name, service in self.services.items() if policy.is_job(service)}
        self.assertEqual(jobs, {"cockroach-certs", "cockroach-init", "migrate"})
        waited = {needed for service in self.services.values() for needed, how in service.get("depends_on", {}).items()
                  if how["condition"] == "service_completed_successfully"}
        self.assertEqual(waited, jobs)

    def test_the_authoritys_key_is_with_the_job_alone_and_the_platform_sees_only_its_certificate(self):
        def holders(volume):
            return {name for name, service in self.services.items()
                    for mount in service.get("volumes", []) if mount.get("source") == volume}

        self.assertEqual(holders("cockroach-ca-key"), {"cockroach-certs"})
        self.assertEqual(holders("cockroach-certs"),
                         {"cockroach-certs", "cockroach-init", "cockroach-1", "cockroach-2", "cockroach-3"})
        self.assertEqual(holders("cockroach-ca"), {"cockroach-certs", "migrate", "innover", "bridge"})

    def test_the_admin_password_is_with_those_who_need_it_alone(self):
        secret = self.stack.secret("DATABASE_ADMIN_PASSWORD")
        knowing = {name for name, service in self.services.items() if secret in str(service)}
        self.assertEqual(knowing, {"cockroach-init", "migrate"})

    def test_every_node_advertises_itself_and_joins_all_of_them(self):
        nodes = ["cockroach-1", "cockroach-2", "cockroach-3"]
        for node in nodes:
            command = self.services[node]["command"]
            self.assertIn(f"--advertise-addr={node}", command)
            self.assertIn(f"--join={','.join(nodes)}", command)
            self.assertNotIn("--insecure", command)
            self.assertEqual(self.services[node]["networks"]["inside"], {"aliases": ["cockroach"]})
            data = {mount["source"] for mount in self.services[node]["volumes"]}
            self.assertIn(node, data)

    def test_every_volume_is_used_and_every_server_keeps_its_data_on_one(self):
        used = {mount["source"] for service in self.services.values() for mount in service.get("volumes", [])
                if mount["type"] == "volume"}
        self.assertEqual(used, set(self.config["volumes"]))

    def test_nothing_runs_without_fsync(self):
        self.assertIn("--appendonly yes --appendfsync everysec", " ".join(self.services["redis"]["command"]))
        start = (self.stack.folder / "infra/redpanda/start").read_text()
        commands = [line for line in start.splitlines() if not line.startswith("#")]
        self.assertLess(commands.index("rpk redpanda mode production"),
                        next(i for i, line in enumerate(commands) if "rpk redpanda start" in line))
        self.assertFalse([line for line in commands if "dev-container" in line or "bypass-fsync" in line])


if __name__ == "__main__":
    unittest.main()
