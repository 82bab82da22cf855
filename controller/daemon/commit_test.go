package daemon_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestCommit: a container's changes become an image, of which containers are made; its processes stand meanwhile, unless asked otherwise, and
// go on after a failure too.
func TestCommit(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	e.create("box", container.Config{Cmd: []string{"sleep"}, Env: []string{"A=1"}, Labels: map[string]string{"l": "1"}}, container.HostConfig{})
	e.begin("box")
	tether := <-made
	paused := make(chan bool, 16)
	answer := tarOf(t, "new", "of the container")
	serve := func(content []byte, end error) {
		tether.OnExport(func(w io.Writer) error {
			paused <- e.state("box").Paused
			_, err := w.Write(content)
			return errors.Join(err, end)
		})
	}
	serve(answer, nil)
	for _, noPause := range []bool{false, true} {
		res, err := e.docker.ContainerCommit(e.ctx(), "box", client.ContainerCommitOptions{
			Reference: "made:1", Comment: "hello", Author: "me", Changes: []string{`CMD ["new"]`, "ENV A=2"}, NoPause: noPause,
			Config: &container.Config{Labels: map[string]string{"m": "2"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if was := <-paused; was == noPause {
			t.Errorf("paused is %v, asked for %v", was, !noPause)
		}
		img, err := e.docker.ImageInspect(e.ctx(), "made:1")
		if err != nil || img.ID != res.ID || len(img.RootFS.Layers) != 2 || img.Comment != "hello" || img.Author != "me" {
			t.Fatalf("%+v, %v", img, err)
		}
		if c := img.Config; !slices.Equal(c.Cmd, []string{"new"}) || !slices.Equal(c.Env, []string{"A=2"}) || c.Labels["l"] != "1" || c.Labels["m"] != "2" {
			t.Errorf("%+v", img.Config)
		}
	}
	if e.state("box").Paused {
		t.Error("the container is paused still")
	}
	if asked := tether.Exports()[0]; asked.Content != tetherv1.ExportRequest_CHANGES {
		t.Errorf("asked for %v", asked)
	}
	_, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{Name: "child", Config: &container.Config{Image: "made:1"}})
	if err != nil {
		t.Error(err)
	}
	serve(answer[:600], io.ErrUnexpectedEOF)
	if _, err := e.docker.ContainerCommit(e.ctx(), "box", client.ContainerCommitOptions{Reference: "half:1"}); err == nil {
		t.Error("half a layer was committed")
	}
	_, err = e.docker.ContainerCommit(e.ctx(), "nobody", client.ContainerCommitOptions{Reference: "a:1"})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "No such container: nobody") {
		t.Errorf("error is %v", err)
	}
	if s := e.state("box"); s.Paused || !s.Running {
		t.Errorf("state %+v", s)
	}
	if _, err := e.docker.ImageInspect(e.ctx(), "half:1"); !errdefs.IsNotFound(err) {
		t.Errorf("half:1: %v", err)
	}
}

// TestCommitIsCutOff: a container goes on when the host's daemon goes away in the middle of a commit, and when the controller was killed in one.
func TestCommitIsCutOff(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	id := e.create("box", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	tether := <-made
	exporting, end := make(chan bool, 1), make(chan struct{})
	tether.OnExport(func(w io.Writer) error {
		exporting <- e.state(id).Paused
		<-end
		return io.ErrClosedPipe
	})
	committed := make(chan error, 1)
	go func() {
		_, err := e.docker.ContainerCommit(e.ctx(), id, client.ContainerCommitOptions{Reference: "cut:1"})
		committed <- err
	}()
	if !<-exporting {
		t.Error("the container runs while its files are read")
	}
	e.host.Stop()
	close(end)
	e.host.Run()
	if err := <-committed; err == nil {
		t.Error("a commit that was cut off has succeeded")
	}
	if s := e.state(id); s.Paused || !s.Running {
		t.Errorf("after the host's daemon: %+v", s)
	}
	// What a controller leaves that is killed.
	if _, err := e.docker.ContainerPause(e.ctx(), id, client.ContainerPauseOptions{}); err != nil {
		t.Fatal(err)
	}
	vm := e.vm(id)
	if err := e.connect().Reconfigure(e.ctx(), vm.Ref, map[string]string{record.KeyStands: vm.Extra[hostapi.KeyRun]}); err != nil {
		t.Fatal(err)
	}
	e.stop()
	e.run()
	e.until(id, "goes on", func(c container.InspectResponse) bool { return c.State.Running && !c.State.Paused })
	if mark := e.vm(id).Extra[record.KeyStands]; mark != "" {
		e.until(id, "is not marked", func(container.InspectResponse) bool { return e.vm(id).Extra[record.KeyStands] == "" })
	}
}
