package daemon_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// tarOf is a tar of one file.
func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644})
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (e *engine) copyTo(id, dir string, opt client.CopyToContainerOptions, content []byte) error {
	opt.DestinationPath, opt.Content = dir, bytes.NewReader(content)
	_, err := e.docker.CopyToContainer(e.ctx(), id, opt)
	return err
}

// copyFrom returns the names of a path's archive, with what the files hold, and what is said of the path.
func (e *engine) copyFrom(id, path string) (string, container.PathStat, error) {
	res, err := e.docker.CopyFromContainer(e.ctx(), id, client.CopyFromContainerOptions{SourcePath: path})
	if err != nil {
		return "", container.PathStat{}, err
	}
	defer res.Content.Close()
	in := tar.NewReader(res.Content)
	var out []string
	for {
		h, err := in.Next()
		if err == io.EOF {
			return strings.Join(out, " "), res.Stat, nil
		}
		if err != nil {
			return "", res.Stat, err
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return "", res.Stat, err
		}
		out = append(out, h.Name+"="+string(content))
	}
}

// fakes are the tethers of an engine's machines, the latest last.
type fakes chan *linktest.Tether

func (f fakes) add(m *daemontest.Machine, tether *linktest.Tether) {
	tether.SetFile("/etc/", "")
	tether.SetFile("/etc/motd", "welcome")
	f <- tether
}

// TestCopy: files go in and out of a container that runs, compressed too, and what is wrong is said in Docker's words.
func TestCopy(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made // the image's unpacker
	id := e.create("box", container.Config{Cmd: []string{"sleep"}, User: "someone"}, container.HostConfig{})
	e.begin(id)
	tether := <-made
	for {
		if tether.Process(link.MainSession) != nil {
			break
		}
		tether = <-made
	}
	content, stat, err := e.copyFrom("box", "/etc")
	if err != nil || content != "etc/= etc/motd=welcome" || stat.Name != "etc" || !stat.Mode.IsDir() {
		t.Errorf("%q, %+v, %v", content, stat, err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(tarOf(t, "new", "text")); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	if err := e.copyTo("box", "/etc", client.CopyToContainerOptions{CopyUIDGID: true}, packed.Bytes()); err != nil {
		t.Error(err)
	}
	if err := e.copyTo("box", "/etc", client.CopyToContainerOptions{AllowOverwriteDirWithFile: true}, tarOf(t, "plain", "text")); err != nil {
		t.Error(err)
	}
	if text, _ := tether.File("/etc/new"); text != "text" {
		t.Errorf("the container has %q", text)
	}
	if asked := tether.Imports(); len(asked) != 2 || asked[0].Owner != "someone" || !asked[0].NoOverwriteDirNonDir || asked[1].Owner != "" || asked[1].NoOverwriteDirNonDir {
		t.Errorf("asked for %v", asked)
	}
	_, _, err = e.copyFrom("box", "/none")
	if want := "Could not find the file /none in container box"; !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	err = e.copyTo("box", "/none", client.CopyToContainerOptions{}, tarOf(t, "new", "text"))
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "Could not find the file /none in container box") {
		t.Error(err)
	}
	err = e.copyTo("box", "/etc", client.CopyToContainerOptions{}, tarOf(t, "new", strings.Repeat("x", 5000))[:3000])
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a tar that is cut off: %v", err)
	}
	if err := e.copyTo("box", "/etc", client.CopyToContainerOptions{}, []byte("\x1f\x8bnot really")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("damaged compression: %v", err)
	}
}

// TestExportIsCutOff: an archive that the guest gave up, or whose machine went away, ends with an error and never looks whole; a client that leaves
// ends the guest's work.
func TestExportIsCutOff(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	id := e.create("box", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	tether := <-made
	half := bytes.Repeat([]byte("x"), 1<<20)
	cutOff := func(what string, end func() error) {
		tether.OnExport(func(w io.Writer) error {
			if _, err := w.Write(half); err != nil {
				return err
			}
			return end()
		})
		res, err := e.docker.ContainerExport(e.ctx(), id, client.ContainerExportOptions{})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n, err := io.Copy(io.Discard, res); err == nil {
			t.Errorf("%s: %d bytes look like all", what, n)
		}
		res.Close()
	}
	cutOff("given up", func() error { return errors.New("the disk is broken") })
	ended := make(chan error, 1)
	tether.OnExport(func(w io.Writer) error {
		for {
			if _, err := w.Write(half); err != nil {
				ended <- err
				return err
			}
		}
	})
	res, err := e.docker.ContainerExport(e.ctx(), id, client.ContainerExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res, make([]byte, 100)); err != nil {
		t.Error(err)
	}
	res.Close()
	select {
	case <-ended:
	case <-e.ctx().Done():
		t.Error("the guest goes on for nobody")
	}
	tether.OnExport(func(io.Writer) error { return link.Refuse(errdefs.ErrInvalidArgument, "no such thing") })
	if _, err := e.docker.ContainerExport(e.ctx(), id, client.ContainerExportOptions{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("what is refused before the first byte: %v", err)
	}
	gone := make(chan struct{})
	defer close(gone)
	machine := e.host.Hypervisor.Machine(e.vm(id).Ref.Value)
	cutOff("lost", func() error {
		machine.Kill()
		<-gone // it says nothing any more
		return nil
	})
}

// TestDiff: changes are in the order of their paths; what a guest says that makes no sense is an error; the image's disk is given back.
func TestDiff(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	id := e.create("box", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	tether := <-made
	for text, want := range map[string]string{
		`{"Path":"/b","Kind":1}` + "\n" + `{"Path":"/a","Kind":0}` + "\n": "C /a A /b", "": "", "{": "error", `{"Path":"/a","Kind":9}` + "\n": "error",
	} {
		tether.OnExport(func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		})
		res, err := e.docker.ContainerDiff(e.ctx(), id, client.ContainerDiffOptions{})
		var got []string
		for _, c := range res.Changes {
			got = append(got, c.Kind.String()+" "+c.Path)
		}
		if is := strings.Join(got, " "); (err != nil) != (want == "error") || err == nil && is != want {
			t.Errorf("%q: %q, %v", text, is, err)
		}
	}
	for _, asked := range tether.Exports() {
		if asked.Content != tetherv1.ExportRequest_CHANGED_NAMES || asked.Base != "vol15" {
			t.Errorf("asked for %v", asked)
		}
	}
}

// TestFilesOfAContainerThatDoesNotRun: a machine borrows its disks, serves who comes next too, gives them back when the container is started or
// removed, and is gone with the daemon.
func TestFilesOfAContainerThatDoesNotRun(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	id := e.create("box", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	for range 2 {
		if content, _, err := e.copyFrom("box", "/etc/motd"); err != nil || content != "motd=welcome" {
			t.Errorf("%q, %v", content, err)
		}
	}
	if n := len(e.machines("files")); n != 1 {
		t.Errorf("%d machines have the container's files", n)
	}
	if s := e.state(id); s.Status != "created" {
		t.Errorf("state %+v", s)
	}
	e.begin(id)
	if n := len(e.machines("files")); n != 0 || e.state(id).Status != "running" {
		t.Errorf("%d machines have the files of a container that runs", n)
	}
	other := e.create("other", container.Config{Cmd: []string{"true"}}, container.HostConfig{})
	if _, _, err := e.copyFrom(other, "/etc/motd"); err != nil {
		t.Error(err)
	}
	if _, err := e.docker.ContainerRemove(e.ctx(), other, client.ContainerRemoveOptions{}); err != nil {
		t.Error(err)
	}
	if n := len(e.machines("files")); n != 0 {
		t.Errorf("%d machines have the files of a container that is gone", n)
	}
	third := e.create("third", container.Config{Cmd: []string{"true"}}, container.HostConfig{})
	if _, _, err := e.copyFrom(third, "/etc/motd"); err != nil {
		t.Error(err)
	}
	e.stop()
	if n := len(e.machines("files")); n != 0 {
		t.Errorf("%d machines are left by a daemon that has ended", n)
	}
}

// TestSharedVolume: a machine that has the files of a container gives a volume back to another container that starts with it; while that runs, the
// first one's files cannot be had, and it is said who has the volume.
func TestSharedVolume(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	host := container.HostConfig{Binds: []string{"data:/data"}}
	first := e.create("first", container.Config{Cmd: []string{"true"}}, host)
	second := e.create("second", container.Config{Cmd: []string{"sleep"}}, host)
	if _, _, err := e.copyFrom(first, "/etc/motd"); err != nil {
		t.Fatal(err)
	}
	e.begin(second)
	_, _, err := e.copyFrom(first, "/etc/motd")
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "volume data is in use by container "+second[:12]) {
		t.Errorf("%v", err)
	}
	if n := len(e.machines("files")); n != 0 {
		t.Errorf("%d machines are left", n)
	}
}

// TestArchiveUpload: a client that leaves in the middle of its upload leaves no upload that looks whole.
func TestArchiveUpload(t *testing.T) {
	made := make(fakes, 16)
	e := start(t, made.add)
	<-made
	id := e.create("box", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	tether := <-made
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(e.ctx(), http.MethodPut, "http://docker/containers/"+id+"/archive?path="+url.QueryEscape("/etc"), r)
	if err != nil {
		t.Fatal(err)
	}
	whole := tarOf(t, "big", strings.Repeat("x", 1<<20))
	go func() {
		_, _ = w.Write(whole[:len(whole)-1536]) // all of the file's bytes, but not the tar's end
		w.CloseWithError(errors.New("the client has had enough"))
	}()
	if res, err := e.dialer().Do(req); err == nil {
		res.Body.Close()
		t.Errorf("the answer is %s", res.Status)
	}
	for ctx := e.ctx(); len(tether.Imports()) == 0; {
		if ctx.Err() != nil {
			t.Fatal("the import never ended")
		}
	}
}
