package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/bench/internal/peer"
)

// environment is what groups are measured with. What only some need is made when the first of them asks for it.
type environment struct {
	o      options
	dir    string    // of the run, on disk
	memory string    // of the run, on a tmpfs: templates and states, so that no disk is measured
	calls  *recorder // of all hosts: govmomi has one place for it
	made   *host
	root   []byte // of the benchmark's image
	taken  *peer.Machine
	after  []func() error // ends what one group needed
}

func newEnvironment(o options) (*environment, error) {
	for _, path := range []*string{&o.guest, &o.supervisor} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = abs
	}
	e := &environment{o: o, calls: newRecorder()}
	var err error
	if e.dir, err = os.MkdirTemp("", "cvm-bench-"); err != nil {
		return nil, fmt.Errorf("cannot make directory of the run: %w", err)
	}
	if e.memory, err = os.MkdirTemp(tmpfs(), "cvm-bench-"); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make directory of the run: %w", err), os.RemoveAll(e.dir))
	}
	return e, nil
}

// tmpfs is a directory in memory, or the default one for temporary files where there is none.
func tmpfs() string {
	const shm = "/dev/shm"
	const magic = 0x01021994 // TMPFS_MAGIC, linux/magic.h
	var s syscall.Statfs_t
	if err := syscall.Statfs(shm, &s); err == nil && s.Type == magic {
		return shm
	}
	return ""
}

// close ends all that was made.
func (e *environment) close() error {
	err := e.endGroup()
	if e.made != nil {
		err = errors.Join(err, e.made.close())
	}
	return errors.Join(err, os.RemoveAll(e.memory), os.RemoveAll(e.dir))
}

// deferred has something done when the group has been measured.
func (e *environment) deferred(f func() error) { e.after = append(e.after, f) }

func (e *environment) endGroup() (err error) {
	for i := len(e.after) - 1; i >= 0; i-- {
		err = errors.Join(err, e.after[i]())
	}
	e.after = nil
	return err
}

// host is the embedded host with the benchmark's image. It keeps nothing ready: what it did so while others are measured would
// be in their figures.
func (e *environment) host(ctx context.Context) (*host, error) {
	if e.made != nil {
		return e.made, nil
	}
	h, err := e.start(ctx, e.dir, pools{})
	if err == nil {
		e.made = h
	}
	return h, err
}

// pooled is a host of its own that keeps machines ready, for the length of a group.
func (e *environment) pooled(ctx context.Context, p pools) (*host, error) {
	if e.o.vsphere != "" {
		return nil, errors.New("two controllers of one vSphere would clear away each other's pools")
	}
	h, err := e.start(ctx, filepath.Join(e.dir, fmt.Sprintf("p%dw%d", p.prestart, p.warm)), p)
	if err == nil {
		e.deferred(h.close)
	}
	return h, err
}

// start starts a host with the benchmark's image, and waits for its template: making that would be in what is measured first.
func (e *environment) start(ctx context.Context, dir string, p pools) (*host, error) {
	if e.root == nil {
		root, err := benchRoot(ctx, e.dir)
		if err != nil {
			return nil, err
		}
		e.root = root
	}
	h, err := startHost(ctx, dir, e.o, e.calls, p)
	if err != nil {
		return nil, err
	}
	if err := h.importImage(ctx, imageName, e.root); err != nil {
		return nil, errors.Join(err, h.close())
	}
	if h.local() {
		_ = h.settle(ctx) // those who need a template are told why there is none
	}
	return h, nil
}

// machine is that of a container, for the peers: with the benchmark's own init.
func (e *environment) machine(ctx context.Context) (peer.Machine, error) {
	if e.taken != nil {
		return *e.taken, nil
	}
	h, err := e.host(ctx)
	if err != nil {
		return peer.Machine{}, err
	}
	m := peer.Default(e.o.accel, filepath.Join(e.o.guest, "vmlinux"))
	if h.local() {
		line, err := h.commandLine(ctx)
		if err != nil {
			return peer.Machine{}, err
		}
		if m, err = peer.Of(line); err != nil {
			return peer.Machine{}, err
		}
	}
	if m.Initrd, err = peer.BuildInitrd(ctx, e.dir); err != nil {
		return peer.Machine{}, err
	}
	e.taken = &m
	return m, nil
}

// probes tell whether the machine was quiet in a round.
func (e *environment) probes(m peer.Machine) []measure.Probe {
	return []measure.Probe{{Name: "/bin/true", Measure: probe}, {Name: "qemu -M none", Measure: m.Floor}}
}
