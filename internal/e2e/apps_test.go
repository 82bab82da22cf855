package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// appPackages are the servers of Debian 12 that an application is made of, and their clients.
const appPackages = "nginx-light,redis-server,redis-tools,postgresql,postgresql-contrib,nfs-ganesha,nfs-ganesha-mem"

// appImage holds them.
const appImage = "app:test"

// longVariable, set to anything, has tests run as long as they should once for each release, instead of as long as there is time for
// in each `make test`.
const longVariable = "CVM_TEST_LONG"

func isLong() bool { return os.Getenv(longVariable) != "" }

// Commands of the application's containers. A volume that is not in the image belongs to root at first.
const (
	postgresCommand = `set -e
bin=$(echo /usr/lib/postgresql/*/bin)
chown postgres:postgres /data
as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
if [ ! -e /data/db/PG_VERSION ]; then
	rm -rf /data/new /data/db
	as $bin/initdb -D /data/new --auth=trust -E UTF8 >/dev/null
	echo "host all all all trust" >>/data/new/pg_hba.conf
	sync; mv /data/new /data/db
fi
rm -f /data/db/postmaster.pid
exec setpriv --reuid=postgres --regid=postgres --init-groups $bin/postgres -D /data/db -c listen_addresses='*' -c unix_socket_directories=/tmp`
	redisCommand = `exec redis-server --bind 0.0.0.0 --protected-mode no --appendonly yes --appendfsync always --dir /data`
	nginxCommand = `cat >/tmp/nginx.conf <<END
daemon off; error_log stderr; pid /tmp/nginx.pid; events {}
http { access_log off; server { listen 8080; listen [::]:8080; root /srv; } }
END
exec nginx -c /tmp/nginx.conf`
)

// application is nginx, redis and postgresql in containers of one network, each with its volume and a published port, and a container that
// uses them by name.
type application struct {
	h     *vmtest.Host
	tools string            // a root with the clients, for the host
	ports map[string]string // host's address of each server, by container
	ip    map[string]string // addresses in the network, by container
}

func startApplication(t *testing.T, h *vmtest.Host) *application {
	t.Helper()
	root := debianRoot(t, appPackages)
	h.MustDocker(t, "import", root, appImage)
	a := &application{h: h, tools: t.TempDir(), ports: map[string]string{}, ip: map[string]string{}}
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", root, "-C", a.tools, "--exclude=./dev/*").CombinedOutput(); err != nil {
		t.Fatalf("cannot unpack the clients: %v: %s", err, out)
	}
	h.MustDocker(t, "network", "create", "app")
	for _, volume := range []string{"pg", "redis", "web"} {
		h.MustDocker(t, "volume", "create", volume)
	}
	run := func(name, volume, port, command string) { // volume is what -v takes
		h.MustDocker(t, "run", "-d", "--name", name, "--network", "app", "-v", volume, "-p", "127.0.0.1:"+freePort(t)+":"+port,
			"-m", "256m", appImage, "sh", "-c", command)
		a.ports[name] = h.MustDocker(t, "port", name, port)
		a.ip[name] = a.address(t, name)
	}
	h.MustDocker(t, "run", "--rm", "-v", "web:/srv", appImage, "sh", "-c", "echo hello from the volume >/srv/index.html; head -c 1048576 /dev/zero >/srv/big")
	run("db", "pg:/data", "5432", postgresCommand)
	run("cache", "redis:/data", "6379", redisCommand)
	run("web", "web:/srv:ro", "8080", nginxCommand)
	h.MustDocker(t, "run", "-d", "--name", "user", "--network", "app", appImage, "sleep", "infinity")
	a.ip["user"] = a.address(t, "user")
	a.answers(t)
	equal(t, "SET", a.tool(t, 0, "redis-cli", append(a.at("cache", "-h", "-p"), "SET", "key", "value")...), "OK")
	a.tool(t, 0, "psql", append(a.at("db", "-h", "-p"), "-U", "postgres", "-c", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42);")...)
	return a
}

// freePort is one that nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

func (a *application) address(t *testing.T, name string) string {
	t.Helper()
	return inspect(t, a.h, name, ".NetworkSettings.Networks.app.IPAddress")
}

// at is the options that lead a client to a container's published port.
func (a *application) at(name, host, port string) []string {
	address, number, _ := strings.Cut(a.ports[name], ":")
	return []string{host, address, port, number}
}

// tool runs a client on the host, with its root from the image. A limit of 0 is a minute.
func (a *application) tool(t *testing.T, limit time.Duration, name string, args ...string) string {
	t.Helper()
	out, err := a.try(t, limit, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func (a *application) try(t *testing.T, limit time.Duration, name string, args ...string) (string, error) {
	t.Helper()
	if limit == 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	path, err := filepath.Glob(a.tools + "/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(path) == 0 {
		path = []string{a.tools + "/usr/bin/" + name}
	}
	cmd := exec.CommandContext(ctx, strings.TrimPrefix(path[0], a.tools), args...)
	cmd.Path = strings.TrimPrefix(path[0], a.tools)
	cmd.Err = nil // it is looked for in the root
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: a.tools}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// get asks the web server.
func (a *application) get(path string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + a.ports["web"] + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// answers waits until all servers answer, at their published ports and by their names.
func (a *application) answers(t *testing.T) {
	t.Helper()
	vmtest.Eventually(t, 2*time.Minute, "nginx answers at its published port", func() bool {
		body, err := a.get("/index.html")
		return err == nil && body == "hello from the volume\n"
	})
	vmtest.Eventually(t, 2*time.Minute, "redis answers at its published port", func() bool {
		out, err := a.try(t, 0, "redis-cli", append(a.at("cache", "-h", "-p"), "PING")...)
		return err == nil && out == "PONG"
	})
	vmtest.Eventually(t, 3*time.Minute, "postgresql answers at its published port", func() bool {
		out, err := a.try(t, 0, "psql", append(a.at("db", "-h", "-p"), "-U", "postgres", "-Atc", "SELECT 1")...)
		return err == nil && out == "1"
	})
	for _, ask := range [][]string{{"psql", "-h", "db", "-U", "postgres", "-Atc", "SELECT 1"}, {"redis-cli", "-h", "cache", "PING"}} {
		vmtest.Eventually(t, time.Minute, ask[2]+" is found by its name", func() bool {
			return a.h.Docker(t, append([]string{"exec", "user"}, ask...)...).Code == 0
		})
	}
}

// whole fails the test when anything of the application is lost: data, addresses, names, ports.
func (a *application) whole(t *testing.T) {
	t.Helper()
	a.answers(t)
	equal(t, "key in redis", a.tool(t, 0, "redis-cli", append(a.at("cache", "-h", "-p"), "GET", "key")...), "value")
	equal(t, "row in postgresql", a.tool(t, 0, "psql", append(a.at("db", "-h", "-p"), "-U", "postgres", "-Atc", "SELECT n FROM kept")...), "42")
	for name, ip := range a.ip {
		equal(t, "address of "+name, a.address(t, name), ip)
	}
	for name, port := range map[string]string{"db": "5432", "cache": "6379", "web": "8080"} {
		equal(t, "port of "+name, a.h.MustDocker(t, "port", name, port), a.ports[name])
	}
	for _, name := range []string{"pg", "redis", "web"} {
		equal(t, "volume", a.h.MustDocker(t, "volume", "inspect", "-f", "{{.Name}}", name), name)
	}
}

// TestApplication runs real servers of Debian with volumes and published ports, loads them from the host, and kills everything under them.
func TestApplication(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to run the clients in a root of their own; try: sudo make test")
	}
	h := loaded(t, vmtest.Options{Split: true}) // without templates: they would outlive a hostd-bridge that is not ended by `cvm down`
	a := startApplication(t, h)
	t.Run("Load", func(t *testing.T) { testApplicationLoad(t, a) })
	t.Run("NFS", func(t *testing.T) { testNFS(t, a) })
	t.Run("Kills", func(t *testing.T) { testApplicationKills(t, a) })
	t.Run("Restart", func(t *testing.T) { testApplicationRestart(t, a) })
	h.RemoveAll(t)
	equal(t, "volumes after the containers", h.MustDocker(t, "volume", "ls", "-q"), "pg\nredis\nweb")
	h.MustDocker(t, "volume", "rm", "pg", "redis", "web")
	h.MustDocker(t, "network", "rm", "app")
	h.MustDocker(t, "rmi", appImage)
	h.CheckIdle(t)
}

// loadTime is how long each server is loaded.
func loadTime() time.Duration {
	if isLong() {
		return 30 * time.Second
	}
	return 5 * time.Second
}

func testApplicationLoad(t *testing.T, a *application) {
	var report string
	for end := time.Now().Add(loadTime()); time.Now().Before(end); {
		out := a.tool(t, 5*time.Minute, "redis-benchmark", append(a.at("cache", "-h", "-p"), "-q", "-c", "20", "-n", "2000", "-t", "set,get,incr,lpush,ping")...)
		if strings.Contains(out, "rror") {
			t.Fatalf("redis-benchmark saw an error: %s", out)
		}
		report = out
	}
	for line := range strings.FieldsFuncSeq(report, func(r rune) bool { return r == '\r' || r == '\n' }) { // it draws over its lines
		if strings.Contains(line, "requests per second") {
			t.Log(line)
		}
	}
	a.tool(t, 5*time.Minute, "pgbench", append(a.at("db", "-h", "-p"), "-U", "postgres", "-i", "-s", "1", "-q", "postgres")...)
	out := a.tool(t, 5*time.Minute, "pgbench", append(a.at("db", "-h", "-p"), "-U", "postgres", "-c", "4", "-T", fmt.Sprint(int(loadTime().Seconds())), "postgres")...)
	if !strings.Contains(out, "number of failed transactions: 0 (") {
		t.Fatalf("pgbench saw failures: %s", out)
	}
	t.Log(out)
	body, err := a.get("/big")
	if err != nil || len(body) != 1<<20 {
		t.Fatalf("%d bytes of a file: %v", len(body), err)
	}
}

// testApplicationKills ends one process after the other as by kill -9. What the process was the owner of may be cut; the application answers
// again, and nothing is lost.
func testApplicationKills(t *testing.T, a *application) {
	moments := 4 // one of each
	if isLong() {
		moments = 50
	}
	kills := []struct {
		name string
		kill func(t *testing.T, a *application)
	}{
		{"controller", func(_ *testing.T, a *application) { a.h.Kill(vmtest.Controller); a.h.Restart(vmtest.Controller) }},
		{"hostd-bridge", func(_ *testing.T, a *application) { a.h.Kill(vmtest.Hostd); a.h.Restart(vmtest.Hostd) }},
		{"switch", killSwitches},
		{"supervisor", killSupervisor},
	}
	random := rand.New(rand.NewPCG(7, 7))
	for n := range moments {
		k := kills[n%len(kills)]
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		stop := a.busy(t)
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		t.Logf("moment %d: %s", n, k.name)
		k.kill(t, a)
		stop()
		vmtest.Eventually(t, time.Minute, "the API answers again", func() bool { return a.h.Docker(t, "ps").Code == 0 })
		a.whole(t)
		if t.Failed() {
			t.Fatalf("after the kill of the %s, moment %d", k.name, n)
		}
	}
}

// busy has someone write to the database and to redis until stop is called; what fails then fails.
func (a *application) busy(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = a.try(t, 10*time.Second, "redis-cli", append(a.at("cache", "-h", "-p"), "INCR", "counter")...)
			_, _ = a.try(t, 10*time.Second, "psql", append(a.at("db", "-h", "-p"), "-U", "postgres", "-c", "INSERT INTO kept SELECT 42 WHERE false; CREATE TABLE IF NOT EXISTS noise (n int); INSERT INTO noise SELECT generate_series(1,1000)")...)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func killSwitches(t *testing.T, a *application) {
	t.Helper()
	found := 0
	for _, p := range a.h.Processes() {
		if p.Program == vmtest.Switch {
			found++
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Errorf("cannot kill %s: %v", p, err)
			}
		}
	}
	if found == 0 {
		t.Error("no switch runs")
	}
}

// killSupervisor pulls the plug of the database's machine, in the middle of its writes.
func killSupervisor(t *testing.T, a *application) {
	t.Helper()
	id := inspect(t, a.h, "db", ".Id")
	_, supervisor := a.h.MachineOf(t, id)
	if err := syscall.Kill(supervisor, syscall.SIGKILL); err != nil {
		t.Errorf("cannot kill the supervisor of db: %v", err)
	}
	vmtest.Eventually(t, time.Minute, "the database's container has ended", func() bool {
		return inspect(t, a.h, "db", ".State.Running") == "false"
	})
	a.h.MustDocker(t, "start", "db")
}

// testApplicationRestart stops and starts all of it.
func testApplicationRestart(t *testing.T, a *application) {
	for _, name := range []string{"web", "cache", "db"} {
		a.h.MustDocker(t, "restart", name)
	}
	a.whole(t)
}
