package conformance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/dockerd"
	"github.com/containervm/containervm/internal/vmtest"
)

// side is one of the two engines that are compared.
type side struct {
	name   string
	socket string
	env    []string
	dir    string // of its own; sessions have directories below it
	normal *Normaliser
}

// commandTime bounds a command of a session: far above what any needs on a slow machine.
const commandTime = 2 * time.Minute

// image is what both sides have, and root the tar of its root file system.
const image = vmtest.BusyboxName

// testedDockerd begins the version of the dockerd that the list of differences is about.
const testedDockerd = "20.10."

// pair is dockerd and a host of ours, both with the image.
type pair struct {
	theirs, ours *side
	root         string // path of a root tar
}

func newPair(t *testing.T) *pair {
	t.Helper()
	socket := os.Getenv("CVM_CONFORMANCE_SOCKET") // of a host that runs already and has nothing to lose: for whoever writes sessions
	if socket == "" {
		socket = filepath.Join(vmtest.Start(t, vmtest.Options{Fork: true}).Run, "docker.sock")
	}
	vmtest.NeedProgram(t, "dockerd", "docker.io (`make deps-test` does it; it runs for this test alone, with a state and a network of its own)")
	dir, err := os.MkdirTemp("", "cvm-dockerd-") // not t.TempDir: its names are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d, err := dockerd.Start(t.Context(), dir)
	if err != nil {
		vmtest.Missing(t, err.Error())
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	cli := commandLine(t)
	p := &pair{
		theirs: newSide(t, cli, "dockerd", d.Socket),
		ours:   newSide(t, cli, "containerVM", socket),
		root:   filepath.Join(t.TempDir(), "root.tar"),
	}
	p.theirs.env = append(p.theirs.env, fmt.Sprintf("INSIDE=nsenter --net --target %d", d.PID())) // where its published ports are
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	root, err := vmtest.Tar(vmtest.BusyboxFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.root, root, 0o644); err != nil {
		t.Fatal(err)
	}
	archive := vmtest.Busybox(t)
	for _, s := range []*side{p.theirs, p.ours} {
		s.env = append(s.env, "ROOT_TAR="+p.root, "TESTDATA="+testdata)
		s.must(t, "docker load -i "+archive)
	}
	if version := p.theirs.must(t, "docker version -f '{{.Server.Version}}'"); !strings.HasPrefix(version, testedDockerd) {
		vmtest.Missing(t, fmt.Sprintf("dockerd is %s, and %s is about %s, Debian 12's: another has other words", strings.TrimSpace(version), differencesFile, testedDockerd))
	}
	return p
}

// commandLine makes a directory to be put before PATH, in which docker is the command line of the daemon's own package: what is listed is
// of that one, whatever else is installed. CVM_CONFORMANCE_CLI names another, for a look.
func commandLine(t *testing.T) string {
	t.Helper()
	program := os.Getenv("CVM_CONFORMANCE_CLI")
	if program == "" {
		program = "/usr/bin/docker"
	}
	if _, err := os.Stat(program); err != nil {
		vmtest.Missing(t, fmt.Sprintf("%v; try: apt-get install docker.io", err))
	}
	dir := t.TempDir()
	if err := os.Symlink(program, filepath.Join(dir, "docker")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newSide(t *testing.T, cli, name, socket string) *side {
	t.Helper()
	s := &side{name: name, socket: socket, dir: t.TempDir()}
	s.env = append(os.Environ(), "PATH="+cli+":"+os.Getenv("PATH"), "DOCKER_HOST=unix://"+socket, "DOCKER_CONFIG="+filepath.Join(s.dir, "config"), "HOME="+s.dir, "LC_ALL=C", "TZ=UTC", "IMAGE="+image)
	s.normal = NewNormaliser(socket, "<socket>", filepath.Dir(socket), "<state>", s.dir, "<dir>")
	return s
}

// setEnv sets a variable for the commands of both sides.
func (p *pair) setEnv(name, value string) {
	for _, s := range []*side{p.theirs, p.ours} {
		s.env = append(s.env, name+"="+value)
	}
}

// run runs a line of bash in a directory of the side's.
func (s *side) run(ctx context.Context, dir, command string) (stdout, stderr string, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", command)
	cmd.Env, cmd.Dir = s.env, filepath.Join(s.dir, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil {
		errs.WriteString("\n(it did not end)\n")
	} else if cmd.ProcessState != nil {
		err = nil
	}
	if cmd.ProcessState != nil {
		status = cmd.ProcessState.ExitCode()
	}
	return out.String(), errs.String(), status, err
}

// must runs a command that has to succeed.
func (s *side) must(t *testing.T, command string) string {
	t.Helper()
	stdout, stderr, status, err := s.run(context.WithoutCancel(t.Context()), "", command) // cleanups run it too
	if err != nil || status != 0 {
		t.Fatalf("%s: %s: exit %d, %v\n%s%s", s.name, command, status, err, stdout, stderr)
	}
	return stdout
}

// reset removes everything but the image.
func (s *side) reset(t *testing.T) {
	t.Helper()
	s.must(t, `
		containers=$(docker ps -aq); [ -z "$containers" ] || docker rm -fv $containers
		volumes=$(docker volume ls -q); [ -z "$volumes" ] || docker volume rm $volumes
		networks=$(docker network ls -q --filter type=custom); [ -z "$networks" ] || docker network rm $networks
		images=$(docker images --format '{{.Repository}}:{{.Tag}} {{.ID}}' | grep -v "^$IMAGE " | sed 's/^<none>:<none> //; s/ .*//' || true)
		[ -z "$images" ] || docker rmi -f $images`)
}
