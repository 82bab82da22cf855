package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

const page = "mkdir -p /w; hostname >/w/index.html; exec httpd -f -p 80 -h /w"

// answer gets a page of this machine, also when its server is only about to serve.
func answer(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) { // nothing announces that a server in a guest listens
		res, err := client.Get(url)
		if err == nil {
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(body))
		}
		if time.Since(began) > time.Minute {
			t.Fatal(err)
		}
	}
}

// testNetworks: containers of a network find each other by name, alias and short ID, and those of others do not; a published port is answered,
// on both families; a taken one fails the start and leaves the container, which starts when the port is free.
func testNetworks(t *testing.T, h *vmtest.Host) {
	t.Cleanup(func() { h.MustDocker(t, "network", "rm", "front", "back") })
	t.Cleanup(func() { h.RemoveAll(t) })
	h.MustDocker(t, "network", "create", "front")
	h.MustDocker(t, "network", "create", "--subnet", "10.99.7.0/24", "back")
	port := freePort(t)
	id := h.MustDocker(t, "run", "-d", "--name", "web", "--network", "front", "--network-alias", "www", "-p", port+":80", image, "sh", "-c", page)
	equal(t, "page", answer(t, "http://127.0.0.1:"+port), id[:12])
	equal(t, "page by IPv6", answer(t, "http://[::1]:"+port), id[:12])
	equal(t, "docker port", h.MustDocker(t, "port", "web", "80"), "0.0.0.0:"+port+"\n[::]:"+port)
	if ps := h.MustDocker(t, "ps", "--format", "{{.Ports}}"); !strings.Contains(ps, "0.0.0.0:"+port+"->80/tcp") {
		t.Errorf("docker ps: %s", ps)
	}
	for _, name := range []string{"web", "www", id[:12]} {
		equal(t, "page of "+name, h.MustDocker(t, "run", "--rm", "--network", "front", image, "wget", "-qO-", "http://"+name), id[:12])
	}
	want(t, h.Docker(t, "run", "--rm", "--network", "back", image, "wget", "-qO-", "http://web"), 1, "", "bad address")
	address := inspect(t, h, "web", ".NetworkSettings.Networks.front.IPAddress")
	want(t, h.Docker(t, "run", "--rm", "--network", "back", image, "wget", "-qO-", "http://"+address), 1, "", "refused")

	want(t, h.Docker(t, "run", "--name", "late", "-p", port+":80", image, "sh", "-c", page), 125, "",
		"Bind for 0.0.0.0:"+port+" failed: port is already allocated")
	equal(t, "state", inspect(t, h, "late", ".State.Status"), "created")
	h.MustDocker(t, "rm", "-f", "web")
	h.MustDocker(t, "start", "late")
	equal(t, "page", answer(t, "http://127.0.0.1:"+port), inspect(t, h, "late", ".Config.Hostname"))
	want(t, h.Docker(t, "run", "--rm", "--network", "nosuch", image, "true"), 125, "", "network nosuch not found")
	equal(t, "address", h.MustDocker(t, "run", "--rm", "--network", "back", "--ip", "10.99.7.42", image, "hostname", "-i"), "10.99.7.42")
	equal(t, "links", h.MustDocker(t, "run", "--rm", "--network", "none", image, "ls", "/sys/class/net"), "lo")
}

// testForkNetwork: a fork of a running container answers at an address and a port of its own, while its source keeps its own.
func testForkNetwork(t *testing.T, h *vmtest.Host) {
	t.Cleanup(func() { h.RemoveAll(t) })
	port := freePort(t)
	h.MustDocker(t, "run", "-d", "--name", "web", "-p", "127.0.0.1:"+port+":80", image, "sh", "-c", page)
	source := answer(t, "http://127.0.0.1:"+port)
	want(t, h.CVM(t, "fork", "web"), 0, "", "")
	own := h.MustDocker(t, "port", "web-1", "80")
	if strings.HasSuffix(own, ":"+port) {
		t.Errorf("the fork's port is its source's: %s", own)
	}
	equal(t, "page of the fork", answer(t, "http://"+own), source) // it was written before the fork
	equal(t, "page of the source", answer(t, "http://127.0.0.1:"+port), source)
	address := func(name string) string { return inspect(t, h, name, ".NetworkSettings.Networks.bridge.IPAddress") }
	if address("web") == address("web-1") {
		t.Errorf("both have the address %s", address("web"))
	}
	if inside := h.MustDocker(t, "exec", "web-1", "ip", "-4", "addr", "show", "eth0"); !strings.Contains(inside, " "+address("web-1")+"/") {
		t.Errorf("the fork has not the address %s inside: %s", address("web-1"), inside)
	}
	equal(t, "page by the fork's name", h.MustDocker(t, "run", "--rm", image, "wget", "-qO-", "http://web-1"), source)
}

// testConnect: a container that runs comes into a network and leaves one, and its processes go on.
func testConnect(t *testing.T, h *vmtest.Host) {
	t.Cleanup(func() { h.MustDocker(t, "network", "rm", "side") })
	t.Cleanup(func() { h.RemoveAll(t) })
	h.MustDocker(t, "network", "create", "side")
	port := freePort(t)
	h.MustDocker(t, "run", "-d", "--name", "web", "-p", port+":80", image, "sh", "-c", page)
	name := answer(t, "http://127.0.0.1:"+port)
	h.MustDocker(t, "network", "connect", "--alias", "shop", "side", "web")
	equal(t, "interfaces", h.MustDocker(t, "exec", "web", "sh", "-c", "ls /sys/class/net"), "eth0\neth1\nlo")
	equal(t, "page by its alias", h.MustDocker(t, "run", "--rm", "--network", "side", image, "wget", "-qO-", "http://shop"), name)
	h.MustDocker(t, "rename", "web", "site")
	equal(t, "page by its new name", h.MustDocker(t, "run", "--rm", "--network", "side", image, "wget", "-qO-", "http://site"), name)
	h.MustDocker(t, "network", "disconnect", "bridge", "site")
	equal(t, "page by its port in the other network", answer(t, "http://127.0.0.1:"+port), name)
	want(t, h.Docker(t, "run", "--rm", image, "wget", "-qO-", "http://site"), 1, "", "bad address")
	h.MustDocker(t, "network", "connect", "bridge", "site")
	equal(t, "page of its own name", h.MustDocker(t, "run", "--rm", image, "wget", "-qO-", "http://site"), name)
	h.MustDocker(t, "restart", "-t", "1", "site")
	equal(t, "page after a restart", answer(t, "http://127.0.0.1:"+port), name)
}
