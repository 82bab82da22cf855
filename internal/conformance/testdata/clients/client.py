"""Calls of docker-py, one group of them for each name. What it prints is compared between two engines."""
import io
import os
import sys
import tarfile
import time

import docker

IMAGE = os.environ["IMAGE"]
client = docker.from_env(timeout=90)


def group_run():
    print(client.containers.run(IMAGE, "echo hi", remove=True))
    print(client.containers.run(IMAGE, ["sh", "-c", "echo out; sleep 0.3; echo err >&2"], stdout=True, stderr=True, remove=True))
    try:
        client.containers.run(IMAGE, "sh -c 'echo failed >&2; exit 3'", remove=True)
    except docker.errors.ContainerError as e:
        print(e.exit_status, e.stderr)
    c = client.containers.run(IMAGE, "sh -c 'echo detached'", detach=True, name="run1", environment={"KEY": "value"}, labels=["one", "two"])
    print(c.wait(timeout=60)["StatusCode"], c.logs())
    c.reload()
    print(c.status, c.name, sorted(c.labels.items()), c.attrs["Config"]["Env"][0], c.attrs["HostConfig"]["LogConfig"]["Type"])
    c.remove()
    print(client.containers.run(IMAGE, "cat /data/file", volumes={"pyvol": {"bind": "/data", "mode": "rw"}}, remove=True, detach=False,
                                entrypoint=["sh", "-c", "echo kept >/data/file; cat /data/file"]))


def group_containers():
    a = client.containers.create(IMAGE, "sleep 1000", name="list1", labels={"tier": "front"})
    b = client.containers.run(IMAGE, "sleep 1000", name="list2", detach=True)
    print([c.name for c in client.containers.list()])
    print(sorted(c.name for c in client.containers.list(all=True)))
    print([c.name for c in client.containers.list(all=True, filters={"label": "tier=front"})])
    print([c.name for c in client.containers.list(all=True, filters={"status": "created"})])
    print([c.name for c in client.containers.list(filters={"name": "list2"})])
    print([c.name for c in client.containers.list(all=True, limit=1)])
    print([c.name for c in client.containers.list(since="list1")])
    b.rename("list3")
    b.reload()
    print(b.name, b.image.tags, b.status, b.ports)
    b.pause()
    b.reload()
    print(b.status)
    b.unpause()
    print(b.top()["Titles"], len(b.top()["Processes"]))
    print(b.update(cpu_shares=512))
    b.restart(timeout=0)
    b.kill(signal="SIGKILL")
    print(b.wait(condition="not-running")["StatusCode"])
    b.start()
    b.stop(timeout=0)
    print(client.containers.get("list1").id == a.id)
    b.remove(force=True)
    print(sorted(client.containers.prune().keys()))


def group_exec():
    c = client.containers.run(IMAGE, "sleep 1000", name="exec1", detach=True)
    print(c.exec_run("echo hi"))
    print(c.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True))
    print(c.exec_run("sh -c 'echo $KEY; pwd; id -u'", environment={"KEY": "value"}, workdir="/tmp", user="alice"))
    print(list(c.exec_run(["sh", "-c", "echo one; sleep 0.3; echo two"], stream=True).output))
    c.exec_run("sleep 0", detach=True)
    result = c.exec_run("cat", stdin=True, socket=True)
    print(type(result.output).__name__)
    result.output.close()
    print(c.exec_run("nonesuch").exit_code)
    e = client.api.exec_create(c.id, "sh -c 'exit 9'", tty=True)
    client.api.exec_start(e["Id"])
    print(client.api.exec_inspect(e["Id"])["ExitCode"], client.api.exec_inspect(e["Id"])["ProcessConfig"]["tty"])


def group_logs():
    c = client.containers.run(IMAGE, ["sh", "-c", "echo error >&2; sleep 0.5; for i in 1 2 3; do echo line $i; done"], name="logs1", detach=True)
    c.wait()
    print(c.logs(stderr=False))
    print(c.logs(stdout=False))
    print(c.logs(stderr=False, tail=1))
    print(list(c.logs(stderr=False, stream=True)))
    print(len(c.logs(stderr=False, timestamps=True).split(b" ")[0]) > 20)
    print(c.logs(since=int(time.time()) + 3600))
    f = client.containers.run(IMAGE, ["sh", "-c", "echo begin; sleep 1; echo end"], name="logs2", detach=True)
    print(b"".join(f.logs(stream=True, follow=True)))


def group_archive():
    c = client.containers.run(IMAGE, "sleep 1000", name="archive1", detach=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("put")
        info.size, info.mode, info.uid, info.gid = 5, 0o640, 1000, 50
        tar.addfile(info, io.BytesIO(b"hello"))
    print(c.put_archive("/tmp", data.getvalue()))
    print(c.exec_run("sh -c 'cat /tmp/put; stat -c \" %a %u %g\" /tmp/put'").output)
    bits, stat = c.get_archive("/tmp/put")
    print(sorted(stat.keys()), stat["name"], stat["size"], oct(stat["mode"] & 0o777))
    with tarfile.open(fileobj=io.BytesIO(b"".join(bits))) as tar:
        print(tar.getnames(), tar.extractfile("put").read(), tar.getmember("put").uid)
    try:
        c.get_archive("/nonesuch")
    except docker.errors.NotFound as e:
        print("not found", e.explanation)
    print(sorted((d["Path"], d["Kind"]) for d in c.diff()))
    print(sum(len(b) for b in c.export()) > 1000)


def group_stats():
    c = client.containers.run(IMAGE, "sleep 1000", name="stats1", detach=True, mem_limit="128m")
    s = c.stats(stream=False)
    print(sorted(s.keys()))
    print(sorted(s["cpu_stats"].keys()), sorted(s["memory_stats"].keys()), s["memory_stats"]["limit"] > 0, s["memory_stats"]["usage"] > 0)
    print(sorted(s["networks"].keys()), sorted(s["networks"]["eth0"].keys()), s["pids_stats"]["current"])
    g = c.stats(decode=True, stream=True)
    print([type(next(g)).__name__ for _ in range(2)])
    g.close()


def group_events():
    begin = time.time() - 0.001
    c = client.containers.run(IMAGE, "sh -c 'exit 5'", name="events1", detach=True)
    c.wait()
    c.remove()
    client.volumes.create("eventsvol").remove()
    for e in client.events(since=begin, until=time.time() + 0.5, decode=True):
        if e["Type"] in ("container", "volume"):
            print(e["Type"], e["Action"], e.get("status"), e.get("from"), e["Actor"]["Attributes"].get("exitCode"), sorted(e.keys()))


def group_images():
    i = client.images.get(IMAGE)
    print(i.tags, i.short_id.startswith("sha256:"), i.attrs["Os"], i.attrs["Architecture"])
    print(i.tag("pyname", "v1"), [t for image in client.images.list("pyname") for t in image.tags if t.startswith("pyname")])
    print(len(i.history()))
    data = b"".join(i.save(named=True))
    print(len(data) > 1000)
    print([x.tags for x in client.images.load(data)] == [client.images.get(IMAGE).tags])
    client.images.remove("pyname:v1")
    print(client.images.prune())
    try:
        client.images.get("nonesuch")
    except docker.errors.ImageNotFound as e:
        print(e.explanation)
    with open(os.environ["ROOT_TAR"], "rb") as f:
        client.api.import_image_from_data(f.read(), repository="pyimport", tag="one")
    print(client.images.get("pyimport:one").tags)


def group_networks():
    pool = docker.types.IPAMPool(subnet="10.88.0.0/24", gateway="10.88.0.1")
    n = client.networks.create("pynet", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"k": "v"}, check_duplicate=True)
    print(n.name, n.attrs["IPAM"], n.attrs["Labels"])
    c = client.containers.run(IMAGE, "sleep 1000", name="net1", detach=True)
    n.connect(c, aliases=["other"], ipv4_address="10.88.0.9")
    n.reload()
    print([x.name for x in n.containers])
    c.reload()
    print(sorted(c.attrs["NetworkSettings"]["Networks"]), c.attrs["NetworkSettings"]["Networks"]["pynet"]["IPAddress"])
    n.disconnect(c)
    print([x.name for x in client.networks.list(names=["pynet"])], [x.name for x in client.networks.list(filters={"label": "k"})])
    n.remove()
    print(client.networks.prune())


def group_volumes():
    v = client.volumes.create("pyvol2", labels={"k": "v"})
    print(v.name, v.attrs["Driver"], v.attrs["Labels"], v.attrs["Scope"])
    print([x.name for x in client.volumes.list(filters={"name": "pyvol2"})])
    v.remove()
    try:
        client.volumes.get("pyvol2")
    except docker.errors.NotFound as e:
        print(e.explanation)
    print(sorted(client.volumes.prune().keys()))


def group_attach():
    c = client.containers.create(IMAGE, "sh -c 'read line; echo got $line'", name="attach1", stdin_open=True)
    s = c.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    c.start()
    s._sock.sendall(b"typed\n")
    data = b""
    while len(data) < 8 + len("got typed\n"):
        more = s._sock.recv(100)
        if not more:
            break
        data += more
    print(data)
    s.close()
    print(c.wait()["StatusCode"])
    d = client.containers.run(IMAGE, ["sh", "-c", "sleep 1; echo attached"], name="attach2", detach=True)
    print(d.attach(stream=False, logs=True))
    d.wait()


def group_commit():
    c = client.containers.run(IMAGE, "sh -c 'echo new >/new'", name="commit1", detach=True)
    c.wait()
    i = c.commit(repository="pycommit", tag="one", message="words", author="someone", conf={"Cmd": ["cat", "/new"]})
    print(i.tags, i.attrs["Author"], i.attrs["Comment"], i.attrs["Config"]["Cmd"])
    print(client.containers.run("pycommit:one", remove=True))


def group_errors():
    for call in (lambda: client.containers.get("nonesuch"), lambda: client.containers.create("nonesuch:image"),
                 lambda: client.networks.get("nonesuch"), lambda: client.containers.create(IMAGE, mem_limit="1k"),
                 lambda: client.containers.run(IMAGE, "nonesuch"), lambda: client.volumes.create("bad name"),
                 lambda: client.api.build(fileobj=io.BytesIO(b"garbage"), custom_context=True) and None):
        try:
            call()
            print("no error")
        except docker.errors.APIError as e:
            print(type(e).__name__, e.status_code)


def group_system():
    print(client.ping(), client.version()["Os"], client.info()["OSType"], sorted(client.df().keys()))
    print(docker.DockerClient(base_url=os.environ["DOCKER_HOST"], version="1.24").containers.list(filters={"name": "nonesuch"}))
    print(docker.DockerClient(base_url=os.environ["DOCKER_HOST"], version="auto").ping())


try:
    globals()["group_" + sys.argv[1]]()
except Exception as e:  # a trace would name lines of the library
    print("failed:", type(e).__name__, str(e).split(" for ")[0], getattr(e, "explanation", ""))
    sys.exit(1)
