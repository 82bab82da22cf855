package vmtest

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// daemon is a daemon that runs as a process of its own.
type daemon struct {
	cmd   *exec.Cmd
	ready []byte // the JSON that said so
}

// Names of the daemons, for Kill and Restart.
const (
	Hostd      = "hostd-bridge"
	Controller = "controller"
)

func (h *Host) startSplit() {
	h.tb.Helper()
	for _, dir := range []string{h.State, h.Run, filepath.Join(h.State, "logs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			h.tb.Fatal(err)
		}
	}
	h.Restart(Hostd)
	h.Restart(Controller)
}

// Restart starts a daemon that is not running, and waits until it is ready. Neither is started by the other.
func (h *Host) Restart(name string) {
	h.tb.Helper()
	if name == Controller {
		// Its other settings are govc's variables, which the environment holds.
		h.daemons[name] = h.startDaemon(name, "--socket", filepath.Join(h.Run, "docker.sock"),
			"--templates", h.opts.templates(), "--warm", "0")
		return
	}
	h.daemons[name] = h.startDaemon(name, "--state", h.State, "--run", h.Run, "--guest", h.files.guest,
		"--listen", h.hostdAddress(), "--supervisor", filepath.Join(h.files.bin, "cvm-supervisor"), "--switch", filepath.Join(h.files.bin, "cvm-switch"), "--accel", os.Getenv("CVM_ACCEL"),
		"--prestart", "-1", "--host-gateway", HostGateway)
	e := h.endpoint()
	h.setEnv(map[string]string{"DOCKER_HOST": "unix://" + filepath.Join(h.Run, "docker.sock"), "GOVC_URL": e.URL,
		"GOVC_USERNAME": e.Username, "GOVC_PASSWORD": e.Password, "GOVC_TLS_CA_CERTS": e.CAFile})
}

// startDaemon starts a daemon that writes to its log, and returns when it says that it is ready.
func (h *Host) startDaemon(name string, args ...string) *daemon {
	h.tb.Helper()
	log, err := os.OpenFile(filepath.Join(h.State, "logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.tb.Fatal(err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		h.tb.Fatal(err)
	}
	defer r.Close()
	d := &daemon{cmd: exec.Command(filepath.Join(h.files.bin, name), append(args, "--ready-fd", "3")...)}
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr, d.cmd.ExtraFiles = h.env, log, log, []*os.File{w}
	err = d.cmd.Start()
	w.Close()
	if err != nil {
		h.tb.Fatalf("cannot start %s: %v", name, err)
	}
	if d.ready, err = io.ReadAll(r); err != nil || len(d.ready) == 0 { // it closes the descriptor when it is ready, or ends
		_ = d.cmd.Process.Kill() // it may have ended
		h.tb.Fatalf("%s ended before it was ready: %v, %v", name, err, d.cmd.Wait())
	}
	return d
}

// endpoint is how clients reach hostd-bridge.
type endpoint struct {
	URL      string
	Username string
	Password string
	CAFile   string
}

// endpoint is what hostd-bridge has said of itself.
func (h *Host) endpoint() endpoint {
	h.tb.Helper()
	var e endpoint
	if err := json.Unmarshal(h.daemons[Hostd].ready, &e); err != nil {
		h.tb.Fatalf("cannot read how hostd-bridge is reached: %v", err)
	}
	return e
}

// hostdAddress is a free port for the first start, and the same one again for every other: the controller, which is not
// told of a restart, must find it there.
func (h *Host) hostdAddress() string {
	if h.daemons[Hostd] == nil {
		return "127.0.0.1:0"
	}
	address := strings.TrimPrefix(h.endpoint().URL, "https://")
	return strings.TrimSuffix(address, "/sdk")
}

// Kill ends a daemon as by kill -9 and returns when it is gone.
func (h *Host) Kill(name string) {
	h.tb.Helper()
	d := h.daemons[name]
	if err := d.cmd.Process.Kill(); err != nil {
		h.tb.Fatalf("cannot kill %s: %v", name, err)
	}
	_ = d.cmd.Wait() // says "killed"
}

// stopSplit removes every container and ends the daemons in order.
func (h *Host) stopSplit() {
	h.tb.Helper()
	h.RemoveAll(h.tb)
	for _, name := range []string{Controller, Hostd} {
		d := h.daemons[name]
		if d == nil || d.cmd.ProcessState != nil {
			continue
		}
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		if err := d.cmd.Wait(); err != nil {
			h.tb.Errorf("%s did not end in order: %v", name, err)
		}
	}
}
