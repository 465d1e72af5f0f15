"""What must be true of every container of the stack, of the file as compose understands it."""
import re

# Why each may write to its root.
MAY_WRITE_ROOT = {"redpanda": "rpk writes the broker's configuration to /etc/redpanda"}
# Who waits for a server that only has been started: no node serves before `cockroach init`.
MAY_WAIT_FOR_STARTED = {"cockroach-2", "cockroach-3", "cockroach-init"}
MEMORY_BYTES_MAX = 10 * 2**30
LOOPBACK = ("127.0.0.1", "::1")


def is_job(service):
    return service.get("restart") == "no"


def problems(config):
    """A sentence for each rule that a service breaks, beginning with its name."""
    found = []
    for name, service in config["services"].items():
        found += [f"{name}: {problem}" for problem in of_service(name, service, config)]
    total = sum(int(limits(service).get("memory", 0)) for service in config["services"].values() if not is_job(service))
    if total > MEMORY_BYTES_MAX:
        found.append(f"all: servers may take {total} bytes of memory")
    for name in config.get("networks", {}):
        if name not in ("inside", "edge"):
            found.append(f"network {name}: not one of inside and edge")
    if not config["networks"].get("inside", {}).get("internal"):
        found.append("network inside: it is not internal")
    return found


def limits(service):
    return service.get("deploy", {}).get("resources", {}).get("limits", {})


def of_service(name, service, config):
    for limit in ("cpus", "memory", "pids"):
        if not float(limits(service).get(limit, 0)):
            yield f"no limit of {limit}"
    check = service.get("healthcheck", {})
    if is_job(service):
        if not check.get("disable"):
            yield "a job with a health check"
    else:
        if service.get("restart") != "unless-stopped":
            yield "it does not come back"
        if check.get("disable") or not check.get("test"):
            yield "no health check"
        for setting in ("interval", "timeout", "retries", "start_period"):
            if setting not in check:
                yield f"a health check without {setting}"
    if not re.search(r":v?\d+\.\d+\.\d+(-[a-z0-9.]+)?$", service.get("image", "")):
        yield f"the image {service.get('image')} has no exact version"
    for port in service.get("ports", []):
        if port.get("host_ip") not in LOOPBACK:
            yield f"port {port['target']} is published on {port.get('host_ip', 'every address')}"
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
        yield "it has capabilities of root"
    if service.get("privileged"):
        yield "it is privileged"
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield "its programs may gain privileges"
    if service.get("read_only", False) == (name in MAY_WRITE_ROOT):
        yield "its root can be written" if not service.get("read_only") else "an exception that is not needed"
    options = service.get("logging", {}).get("options", {})
    if not options.get("max-size") or not options.get("max-file"):
        yield "its log grows without end"
    for mount in service.get("volumes", []):
        if mount["type"] == "bind" and not mount.get("read_only"):
            yield f"it may write to {mount['source']} of this machine"
    for needed, how in service.get("depends_on", {}).items():
        condition = how["condition"]
        if is_job(config["services"][needed]):
            if condition != "service_completed_successfully":
                yield f"it does not wait for the end of {needed}"
        elif condition != "service_healthy" and name not in MAY_WAIT_FOR_STARTED:
            yield f"it does not wait for {needed} to be healthy"
