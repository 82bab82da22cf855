"""A container's life by docker-py at each version of the API that the arguments name; one line of what was seen for each."""
import io
import sys
import tarfile
import time

import docker

for version in sys.argv[1:]:
    client = docker.DockerClient.from_env(version=version, timeout=30)
    begun = int(time.time())
    seen = [client.containers.run("base", ["echo", "hi"], remove=True)]
    c = client.containers.run("base", ["sleep"], name="p", detach=True)
    c.reload()
    seen.append(c.status)
    code, output = c.exec_run(["echo", "of exec"])
    seen += [output, code]
    chunks, stat = c.get_archive("/etc/motd")
    archive = b"".join(chunks)
    seen.append(tarfile.open(fileobj=io.BytesIO(archive)).extractfile("motd").read())
    seen.append(c.put_archive("/etc", archive))
    if version in (sys.argv[1], sys.argv[-1]):  # it takes two seconds
        seen.append("memory_stats" in c.stats(stream=False))
    c.kill()
    seen.append(c.wait(timeout=30)["StatusCode"])
    seen.append(c.logs())
    told = client.events(since=begun, decode=True, filters={"container": c.id, "event": "die"})
    seen.append(next(told)["Action"])
    told.close()
    c.remove()
    print(version, *seen)
