package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/internal/trusted"
)

// hostStatus is what a running host says of itself on its control socket.
type hostStatus struct {
	PID        int       `json:"pid"`
	Version    string    `json:"version"`
	Started    time.Time `json:"started"`
	State      string    `json:"state"`
	Log        string    `json:"log"`
	DockerHost string    `json:"dockerHost"`
	Jail       string    `json:"jail"`            // how machines are kept from this host
	Lacks      []string  `json:"lacks,omitempty"` // what of that this host lacks
	VSphere    struct {
		URL      string `json:"url"`
		Username string `json:"username"`
		Password string `json:"password"`
		CAFile   string `json:"caFile"`
	} `json:"vsphere"`
}

// controlServer answers on the control socket of the host's process until its listener is closed. The socket is for the
// owner alone: its answer holds the password. With profiles it serves those of net/http/pprof too.
func controlServer(status hostStatus, profiles bool, shutdown context.CancelFunc) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status) // a client that has gone away needs no answer
	})
	mux.HandleFunc("POST /shutdown", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		shutdown()
	})
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
}

// listenControl makes the control socket. The caller holds the host's lock, so that a socket already there is a dead one.
func listenControl(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove the socket of an earlier run: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot protect the control socket: %w", err)
	}
	return l, nil
}

// errNotRunning says that no host answers on the control socket.
var errNotRunning = errors.New("the host is not running: start it with `cvm up`")

// controlCall asks the running host; the error is errNotRunning when there is none.
func controlCall(ctx context.Context, p paths, method, path string, answer any) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.controlSocket())
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, method, "http://cvm"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return errNotRunning
	}
	if err != nil {
		return fmt.Errorf("cannot talk to the host: %w", err)
	}
	defer resp.Body.Close()
	if answer == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// runningHost asks the host on the control socket for its status.
func runningHost(ctx context.Context, p paths) (hostStatus, error) {
	var s hostStatus
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := controlCall(ctx, p, http.MethodGet, "/status", &s)
	return s, err
}

// lock locks a file, which the kernel unlocks with the process at the latest. how is unix.LOCK_EX, with unix.LOCK_NB to
// fail with EWOULDBLOCK rather than wait.
func lock(path string, how int) (*os.File, error) {
	f, err := trusted.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock: %w", err)
	}
	if err := flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return f, nil
}

// flock is flock(2), begun anew when a signal interrupts it.
func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
