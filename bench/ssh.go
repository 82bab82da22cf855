package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// sshPeer is a guest with an SSH server, and a port of this machine that leads there over the relay.
type sshPeer struct {
	relay   *relay
	id      string
	listen  net.Listener
	options []string
	control string // socket of the connection that is kept
}

// forward passes connections on to a vsock port until the listener is closed.
func forward(ctx context.Context, l net.Listener, r *relay, port uint32) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			to, err := r.open(ctx, port)
			if err != nil {
				return // the client sees its connection end, and fails
			}
			ended := make(chan struct{}, 2)
			go func() { io.Copy(to, conn); ended <- struct{}{} }() // the end of either ends both, whatever its reason
			go func() { io.Copy(conn, to); ended <- struct{}{} }()
			<-ended
			to.Close()
		}()
	}
}

// ssh runs true in the guest and waits for it. fresh: by a connection of its own.
func (p *sshPeer) ssh(ctx context.Context, fresh bool) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	path := p.control
	if fresh {
		path = "none"
	}
	args := append([]string{"-o", "ControlPath=" + path}, p.options...)
	begin := time.Now()
	out, err := exec.CommandContext(ctx, "ssh", append(args, "true")...).CombinedOutput()
	took := measure.Millis(time.Since(begin))
	if err != nil {
		return 0, fmt.Errorf("ssh: %w: %s", err, out)
	}
	return took, nil
}

// keep opens the connection that the multiplexed ssh uses; end closes it.
func (p *sshPeer) keep(ctx context.Context) (end func() error, err error) {
	args := append([]string{"-o", "ControlPath=" + p.control, "-o", "ControlMaster=yes", "-f", "-N"}, p.options...)
	// Not CombinedOutput: the process that stays in the background would hold the pipe.
	if err := exec.CommandContext(ctx, "ssh", args...).Run(); err != nil {
		return nil, fmt.Errorf("cannot open the ssh connection that is kept: %w", err)
	}
	return func() error {
		return exec.Command("ssh", append([]string{"-o", "ControlPath=" + p.control, "-O", "exit"}, p.options...)...).Run()
	}, nil
}

// sshOptions are those of a client that knows the guest, with what costs time switched off.
func sshOptions(id sshIdentity, l net.Listener) []string {
	port := l.Addr().(*net.TCPAddr).Port
	return []string{"-F", "none", "-T", "-q", "-i", id.client, "-p", fmt.Sprint(port), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "GSSAPIAuthentication=no", "root@127.0.0.1"}
}

// newSSHPeer starts the guest. What it needs lasts for the group.
func (e *environment) newSSHPeer(ctx context.Context) (*sshPeer, error) {
	h, err := e.host(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := newSSHIdentity(ctx, e.dir)
	if err != nil {
		return nil, err
	}
	root, err := sshRoot(ctx, e.dir, keys)
	if err != nil {
		return nil, err
	}
	if err := h.importImage(ctx, sshImageName, root); err != nil {
		return nil, err
	}
	p := &sshPeer{control: filepath.Join(e.dir, "ssh-control")}
	p.id, err = h.createOf(ctx, sshImageName, runtimeBoot, "/bench", "proxy", fmt.Sprint(servePort), "127.0.0.1:22",
		"/dropbear", "-F", "-E", "-m", "-r", "/host-key", "-p", "127.0.0.1:22")
	if err != nil {
		return nil, err
	}
	e.deferred(func() error { return h.remove(ctx, p.id) })
	if _, err := h.startUntil(ctx, p.id, "ready"); err != nil {
		return nil, err
	}
	if p.relay, err = newRelay(ctx, h.endpoint, p.id); err != nil {
		return nil, err
	}
	if p.listen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("cannot listen for ssh: %w", err)
	}
	e.deferred(p.listen.Close)
	go forward(ctx, p.listen, p.relay, servePort) // ends with its listener
	p.options = sshOptions(keys, p.listen)
	end, err := p.keep(ctx)
	if err != nil {
		return nil, errors.Join(err, e.endGroup())
	}
	e.deferred(end)
	return p, nil
}
