package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// disks are the data disks of a container's machine as vSphere has them, by unit: the path, with " ro" behind it if it is read-only.
func (e *engine) disks(id string) map[int]string {
	e.t.Helper()
	all := map[int]string{}
	for unit, d := range e.host.Hypervisor.Machine(e.vm(id).Ref.Value).DataDisks() {
		all[unit] = filepath.Base(filepath.Dir(d.Path)) + "/" + filepath.Base(d.Path)
		if d.ReadOnly {
			all[unit] += " ro"
		}
	}
	return all
}

func (e *engine) vm(id string) vsphere.VM {
	e.t.Helper()
	c := e.connect()
	vm, ok := c.Get(id)
	if !ok {
		e.t.Fatalf("no VM %s", id)
	}
	return vm
}

func (e *engine) spec(id string) *tetherv1.Spec {
	e.t.Helper()
	spec, err := link.DecodeSpec(e.vm(id).Extra[link.KeySpec])
	if err != nil {
		e.t.Fatal(err)
	}
	return spec
}

func (e *engine) mountsOf(id string) []container.MountPoint {
	e.t.Helper()
	res, err := e.docker.ContainerInspect(e.ctx(), id, client.ContainerInspectOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return res.Container.Mounts
}

// volumes are the names of all volumes.
func (e *engine) volumes() []string {
	e.t.Helper()
	var list struct{ Volumes []struct{ Name string } }
	if status := e.call("GET", "/volumes", "", &list); status != http.StatusOK {
		e.t.Fatalf("GET /volumes: %d", status)
	}
	all := []string{}
	for _, v := range list.Volumes {
		all = append(all, v.Name)
	}
	return all
}

// volumeFiles are the disks of volumes on the datastore.
func (e *engine) volumeFiles() []string {
	e.t.Helper()
	entries, err := os.ReadDir(filepath.Join(e.host.Config().StateDir, "hostd", "datastore", "cvm-volumes"))
	if err != nil {
		e.t.Fatal(err)
	}
	var all []string
	for _, f := range entries {
		all = append(all, f.Name())
	}
	return all
}

// runToRemoval starts a container that is removed when it ends, and waits for that.
func (e *engine) runToRemoval(id string) {
	e.t.Helper()
	res := e.docker.ContainerWait(e.ctx(), id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
	e.begin(id)
	if code := e.exitOf(res); code != 0 {
		e.t.Errorf("exit status %d", code)
	}
}

func (e *engine) removeForced(id string) {
	e.t.Helper()
	if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
		e.t.Error(err)
	}
}

type message struct{ Message string }

func TestVolumes(t *testing.T) {
	e := start(t, nil)
	var made struct {
		Name, Driver, Mountpoint, Scope, CreatedAt string
		Labels, Options                            map[string]string
	}
	for range 2 {
		if status := e.call("POST", "/volumes/create", `{"Name":"data","DriverOpts":{"size":"1g"},"Labels":{"a":"b"}}`, &made); status != http.StatusCreated {
			t.Fatalf("create: %d", status)
		}
	}
	files := e.volumeFiles()
	if len(files) != 1 || made.Driver != "local" || made.Scope != "local" || made.CreatedAt == "" || made.Labels["a"] != "b" || made.Options["size"] != "1g" ||
		!strings.HasSuffix(made.Mountpoint, "] cvm-volumes/"+files[0]) {
		t.Errorf("made %+v, files %v", made, files)
	}
	if status := e.call("POST", "/volumes/create", `{}`, &made); status != http.StatusCreated || len(made.Name) != 64 {
		t.Errorf("anonymous: %d, %+v", status, made)
	}
	for query, want := range map[string]int{
		"": 2, `{"name":["dat"]}`: 1, `{"name":["^x"]}`: 0, `{"label":["a=b"]}`: 1, `{"driver":["local"]}`: 2, `{"driver":["nfs"]}`: 0,
		`{"dangling":["true"]}`: 2, `{"dangling":["false"]}`: 0,
	} {
		var list struct{ Volumes []any }
		if e.call("GET", "/volumes?filters="+query, "", &list); len(list.Volumes) != want {
			t.Errorf("filters %s: %d volumes, want %d", query, len(list.Volumes), want)
		}
	}
	var said message
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/volumes/none", "", 404, "get none: no such volume"},
		{"DELETE", "/volumes/none", "", 404, "get none: no such volume"},
		{"DELETE", "/volumes/none?force=1", "", 204, ""},
		{"GET", "/volumes?filters={\"x\":[\"1\"]}", "", 400, "invalid filter 'x'"},
		{"POST", "/volumes/create", `{"Name":"../a"}`, 400, "includes invalid characters for a local volume name"},
		{"POST", "/volumes/create", `{"Name":"ab","Driver":"nfs"}`, 404, "error looking up volume plugin nfs"},
		{"POST", "/volumes/create", `{"Name":"ab","DriverOpts":{"x":"y"}}`, 400, `invalid option: "x"`},
		{"POST", "/volumes/create", `{"Name":"ab","DriverOpts":{"type":"none","o":"bind","device":"/srv"}}`, 501, "shares no file system with its host"},
		{"POST", "/volumes/create", `{"ClusterVolumeSpec":{}}`, 501, "cluster volumes are not supported"},
		{"PUT", "/volumes/data", `{}`, 503, "swarm is unavailable"},
		{"POST", "/volumes/prune?filters={\"until\":[\"1h\"]}", "", 400, "invalid filter 'until'"},
	} {
		said = message{}
		if status := e.call(c.method, c.path, c.body, &said); status != c.status || !strings.Contains(said.Message, c.says) {
			t.Errorf("%s %s %s: %d %q, want %d %q", c.method, c.path, c.body, status, said.Message, c.status, c.says)
		}
	}
	var pruned struct {
		VolumesDeleted []string
		SpaceReclaimed uint64
	}
	if e.call("POST", "/volumes/prune", "", &pruned); len(pruned.VolumesDeleted) != 1 || pruned.SpaceReclaimed == 0 {
		t.Errorf("pruned %+v, want the volume without a name", pruned)
	}
	if e.call("POST", "/volumes/prune?filters={\"all\":[\"true\"]}", "", &pruned); len(pruned.VolumesDeleted) != 0 {
		t.Errorf("pruned %+v, want none: one with options stays, as in Docker", pruned)
	}
	if status := e.call("DELETE", "/volumes/data", "", nil); status != http.StatusNoContent || len(e.volumeFiles()) != 0 {
		t.Errorf("rm: %d, files %v", status, e.volumeFiles())
	}
}

// TestVolumeOutlivesContainers: what a volume's disk holds stays when its containers go, and a volume that a container has stays itself.
func TestVolumeOutlivesContainers(t *testing.T) {
	e := start(t, nil)
	id := e.create("one", container.Config{Cmd: []string{"sleep"}, Volumes: map[string]struct{}{"/own": {}}}, container.HostConfig{
		Binds: []string{"data:/data", "data:/again:ro"}, Tmpfs: map[string]string{"/tmp": "size=1m"},
		Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "nfs", Target: "/nfs", VolumeOptions: &mount.VolumeOptions{
			Labels:       map[string]string{"l": "1"},
			DriverConfig: &mount.Driver{Options: map[string]string{"type": "nfs", "o": "addr=10.1.2.3,vers=3", "device": ":/export"}},
		}}, {Type: mount.TypeTmpfs, Target: "/mem", ReadOnly: true}},
	})
	files := e.volumeFiles()
	if len(files) != 2 || len(e.volumes()) != 3 {
		t.Fatalf("files %v, volumes %v", files, e.volumes())
	}
	var texts []string
	for _, m := range e.spec(id).GetMounts() {
		texts = append(texts, strings.Join(strings.Fields(m.String()), " "))
	}
	want := []string{
		`target:"/again" read_only:true volume:{serial:"vol1"}`, `target:"/data" volume:{serial:"vol1" copy_up:true}`,
		`target:"/mem" read_only:true tmpfs:{}`, `target:"/nfs" nfs:{address:"10.1.2.3" path:"/export" options:"vers=3"}`,
		`target:"/own" volume:{serial:"vol2" copy_up:true}`, `target:"/tmp" tmpfs:{options:"size=1m"}`,
	}
	if !slices.Equal(texts, want) {
		t.Errorf("mounts:\n%s\nwant\n%s", strings.Join(texts, "\n"), strings.Join(want, "\n"))
	}
	shown := map[string]string{}
	for _, m := range e.mountsOf(id) {
		shown[m.Destination] = fmt.Sprintf("%s %s %s %v", m.Type, m.Driver, m.Mode, m.RW)
	}
	for target, want := range map[string]string{
		"/data": "volume local z true", "/again": "volume local ro false", "/nfs": "volume local z true", "/own": "volume local  true", "/mem": "tmpfs   false",
	} {
		if shown[target] != want {
			t.Errorf("%s is shown as %q, want %q", target, shown[target], want)
		}
	}
	e.begin(id)
	if got := e.disks(id); len(got) != 2 || !strings.HasPrefix(got[1], "cvm-volumes/") || !strings.HasPrefix(got[2], "cvm-volumes/") {
		t.Errorf("the machine has %v", got)
	}
	var said message
	if status := e.call("DELETE", "/volumes/data", "", &said); status != http.StatusConflict || said.Message != "remove data: volume is in use - ["+id+"]" {
		t.Errorf("rm of a volume that is used: %d %q", status, said.Message)
	}
	list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{Filters: client.Filters{}.Add("volume", "data")})
	if err != nil || len(list.Items) != 1 || len(list.Items[0].Mounts) != 5 {
		t.Errorf("ps: %+v, %v", list.Items, err)
	}
	e.removeForced(id)
	if got := e.volumeFiles(); !slices.Equal(got, files) {
		t.Errorf("rm -f: disks %v, had %v", got, files)
	}
	id = e.create("two", container.Config{Cmd: []string{"true"}}, container.HostConfig{Binds: []string{"data:/data", "/anon"}, AutoRemove: true})
	if n := len(e.volumes()); n != 4 {
		t.Errorf("volumes %v", e.volumes())
	}
	e.runToRemoval(id)
	if got := e.volumes(); len(got) != 3 {
		t.Errorf("after --rm: volumes %v, want those before it", got)
	}
	id = e.create("three", container.Config{Cmd: []string{"true"}}, container.HostConfig{Binds: []string{"data:/data", "/anon"}})
	if _, err := e.docker.ContainerRemove(e.ctx(), id, client.ContainerRemoveOptions{RemoveVolumes: true}); err != nil {
		t.Fatal(err)
	}
	if got := e.volumes(); len(got) != 3 || !slices.Contains(got, "data") {
		t.Errorf("after rm -v: volumes %v, want those before it", got)
	}
	e.stop()
	e.run()
	if got := e.volumes(); len(got) != 3 {
		t.Errorf("after a start of the controller: volumes %v", got)
	}
}

// TestOneWriter: a volume is written by one running container at a time, whether its machine was forked or booted; many may read it.
func TestOneWriter(t *testing.T) {
	for name, f := range map[string]forks{"booted": {}, "forked": {templates: 1}, "warm": {templates: 1, warm: 2}, "disk later": {templates: 1, noDisk: true}} {
		t.Run(name, func(t *testing.T) {
			e := startForks(t, daemontest.TetherGuest(t, nil), ctr.Timeouts{}, f)
			if f.templates > 0 {
				e.awaitTemplates(1)
			}
			if f.warm > 0 {
				e.awaitWarm(2)
			}
			sleeps := container.Config{Cmd: []string{"sleep"}}
			one := e.create("one", sleeps, container.HostConfig{Binds: []string{"data:/data"}})
			two := e.create("two", sleeps, container.HostConfig{Binds: []string{"data:/data"}})
			reader := e.create("reader", sleeps, container.HostConfig{Binds: []string{"data:/data:ro"}})
			e.begin(one)
			if got := e.disks(one); len(got) != 1 {
				t.Errorf("the machine has %v", got)
			}
			for _, id := range []string{two, reader} {
				_, err := e.docker.ContainerStart(e.ctx(), id, client.ContainerStartOptions{})
				if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "volume data is in use by container "+one[:12]+" (one), which writes it: use an NFS volume to share it, or mount it read-only") {
					t.Errorf("a second container: %v", err)
				}
				if s := e.state(id); s.Status != "created" {
					t.Errorf("it is %s", s.Status)
				}
			}
			if _, err := e.docker.ContainerStop(e.ctx(), one, client.ContainerStopOptions{}); err != nil {
				t.Fatal(err)
			}
			e.begin(reader)
			more := e.create("more", sleeps, container.HostConfig{VolumesFrom: []string{"one:ro"}})
			e.begin(more)
			if a, b := e.disks(reader), e.disks(more); !strings.HasSuffix(a[1], " ro") || a[1] != b[1] {
				t.Errorf("two readers have %v and %v", a, b)
			}
			if _, err := e.docker.ContainerStart(e.ctx(), two, client.ContainerStartOptions{}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "which reads it") {
				t.Errorf("a writer beside readers: %v", err)
			}
			e.removeForced(reader)
			e.removeForced(more)
			e.begin(two)
			e.removeForced(two)
			e.begin(one)
			if got := e.disks(one); len(got) != 1 || len(e.volumeFiles()) != 1 {
				t.Errorf("started again it has %v, and there are %v", got, e.volumeFiles())
			}
		})
	}
}

// TestParkedMachineIsOff: a forked container whose machine ended at its gate gets its volumes when it boots.
func TestParkedMachineIsOff(t *testing.T) {
	e := startForks(t, daemontest.TetherGuest(t, nil), ctr.Timeouts{}, forks{templates: 1})
	e.awaitTemplates(1)
	id := e.create("one", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{Binds: []string{"data:/data"}})
	if status := e.call("POST", "/host/quiesce", "", nil); status != http.StatusNoContent {
		t.Fatalf("quiesce: %d", status)
	}
	if vm := e.vm(id); vm.PowerState != vsphere.PoweredOff || vm.Extra[record.KeyDisks] != "" {
		t.Fatalf("%+v", vm)
	}
	e.begin(id)
	if got := e.disks(id); len(got) != 1 {
		t.Errorf("the machine has %v", got)
	}
}

// TestMountRefusals: what is refused is refused before anything is made, and says what to do.
func TestMountRefusals(t *testing.T) {
	e := start(t, nil)
	var binds []string
	for i := range 15 {
		binds = append(binds, fmt.Sprintf("vol%d:/v%d", i, i))
	}
	for _, c := range []struct {
		host   container.HostConfig
		status int
		says   string
	}{
		{container.HostConfig{Binds: []string{"/srv:/srv"}}, 501, "cannot mount the host's /srv"},
		{container.HostConfig{Binds: []string{"fine:/x", "/srv:/srv:ro"}}, 501, "docker cp"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/srv", Target: "/srv"}}}, 501, "NFS server"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeImage, Source: "x", Target: "/srv"}}}, 501, "type image"},
		{container.HostConfig{VolumeDriver: "x", Binds: []string{"fine:/x"}}, 400, `plugin "x" not found`},
		{container.HostConfig{VolumesFrom: []string{"nobody"}}, 400, "No such container: nobody"},
		{container.HostConfig{Binds: []string{"fine:/x", "a:/y"}}, 400, "volume name is too short"},
		{container.HostConfig{Binds: []string{"./x:/y"}}, 400, "If you intended to pass a host directory, use absolute path"},
		{container.HostConfig{Binds: []string{"fine:/proc/x"}}, 400, "containerVM's own"},
		{container.HostConfig{Binds: binds}, 400, "at most 14 volumes"},
	} {
		body, err := json.Marshal(container.CreateRequest{Config: &container.Config{Image: "base", Cmd: []string{"true"}}, HostConfig: &c.host})
		if err != nil {
			t.Fatal(err)
		}
		var said message
		if status := e.call("POST", "/containers/create", string(body), &said); status != c.status || !strings.Contains(said.Message, c.says) {
			t.Errorf("%d %q, want %d %q", status, said.Message, c.status, c.says)
		}
	}
	if got := e.volumes(); len(got) != 0 {
		t.Errorf("volumes %v were made for containers that were refused", got)
	}
	e.gone()
}

// TestSecrets: files that Compose mounts as configs and secrets are copied in, as they are.
func TestSecrets(t *testing.T) {
	e := start(t, nil)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s3cret"), 0o400); err != nil {
		t.Fatal(err)
	}
	id := e.create("one", container.Config{Cmd: []string{"true"}}, container.HostConfig{
		Binds: []string{file + ":/run/secrets/one:ro"}, Mounts: []mount.Mount{{Type: mount.TypeBind, Source: file, Target: "/etc/two", ReadOnly: true}},
	})
	all := e.spec(id).GetFiles()
	if len(all) != 2 || all[0].GetPath() != "/etc/two" || all[1].GetPath() != "/run/secrets/one" || string(all[1].GetContent()) != "s3cret" || all[1].GetMode() != 0o400 {
		t.Errorf("files %v", all)
	}
	if m := e.mountsOf(id); len(m) != 2 || m[1].Source != file || m[1].Type != mount.TypeBind || m[1].RW {
		t.Errorf("mounts %+v", m)
	}
	if strings.Contains(e.vm(id).Extra[record.KeyContainer], "s3cret") {
		t.Error("the record of the container has the secret too")
	}
	if status := e.call("POST", "/networks/create", `{"Name":"net"}`, nil); status != http.StatusCreated {
		t.Fatalf("network create: %d", status)
	}
	if status := e.call("POST", "/networks/net/connect", `{"Container":"one"}`, nil); status != http.StatusOK {
		t.Fatalf("connect: %d", status)
	}
	if again := e.spec(id).GetFiles(); len(again) != 2 || string(again[1].GetContent()) != "s3cret" {
		t.Errorf("after a connect: files %v", again)
	}
	from := e.create("two", container.Config{Cmd: []string{"true"}}, container.HostConfig{VolumesFrom: []string{"one"}})
	if got := e.spec(from).GetFiles(); len(got) != 2 {
		t.Errorf("files of --volumes-from: %v", got)
	}
}

// TestForkedVolumes: each child of a container has copies of its own of its volumes, which are seen, and go with it.
func TestForkedVolumes(t *testing.T) {
	e, _ := forkingRunning(t)
	id := e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{Binds: []string{"data:/data", "shared:/shared:ro"}})
	e.begin(id)
	reply, status := e.fork("web", `{"Count":2}`)
	if status != http.StatusCreated || len(reply.Children) != 2 || reply.Children[0].Error != "" {
		t.Fatalf("%d %+v", status, reply)
	}
	seen := map[string]bool{}
	for _, child := range reply.Children {
		mounts := e.mountsOf(child.ID)
		if len(mounts) != 2 || mounts[1].Name != "shared" || mounts[1].RW {
			t.Fatalf("mounts %+v", mounts)
		}
		own := mounts[0]
		if len(own.Name) != 64 || seen[own.Name] || !strings.HasSuffix(own.Source, child.ID+"/volume-1.vmdk") {
			t.Errorf("its copy is shown as %+v", own)
		}
		seen[own.Name] = true
		if got := e.disks(child.ID); got[1] != child.ID+"/volume-1.vmdk" || !strings.HasSuffix(got[2], " ro") {
			t.Errorf("its machine has %v", got)
		}
		var v struct{ Labels map[string]string }
		if status := e.call("GET", "/volumes/"+own.Name, "", &v); status != http.StatusOK || v.Labels[ctr.LabelForkedFrom] != "data" {
			t.Errorf("the copy is %+v (%d)", v, status)
		}
		var said message
		if status := e.call("DELETE", "/volumes/"+own.Name, "", &said); status != http.StatusConflict || !strings.Contains(said.Message, child.ID) {
			t.Errorf("rm of the copy: %d %q", status, said.Message)
		}
	}
	if got := e.volumes(); len(got) != 4 {
		t.Errorf("volumes %v", got)
	}
	first := reply.Children[0].ID
	if _, err := e.docker.ContainerStop(e.ctx(), first, client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	e.begin(first)
	if got := e.disks(first); got[1] != first+"/volume-1.vmdk" || len(got) != 2 {
		t.Errorf("booted again it has %v", got)
	}
	for _, c := range []string{first, reply.Children[1].ID, id} {
		e.removeForced(c)
	}
	if got := e.volumes(); !slices.Equal(got, []string{"data", "shared"}) {
		t.Errorf("volumes %v are left", got)
	}
	for _, name := range []string{"data", "shared"} {
		if status := e.call("DELETE", "/volumes/"+name, "", nil); status != http.StatusNoContent {
			t.Errorf("rm %s: %d", name, status)
		}
	}
	if got := e.volumeFiles(); len(got) != 0 {
		t.Errorf("disks %v are left", got)
	}
	if left, err := os.ReadDir(filepath.Join(e.host.Config().StateDir, "hostd", "datastore", "cvm-forks")); err == nil && len(left) != 0 {
		t.Errorf("fork points %v are left", left)
	}
}

// TestVolumeEvents: volumes are made, mounted, unmounted and destroyed in Docker's words.
func TestVolumeEvents(t *testing.T) {
	e := start(t, nil)
	events := e.docker.Events(e.ctx(), client.EventsListOptions{Filters: client.Filters{}.Add("type", "volume")})
	var heard []string
	id := e.create("one", container.Config{Cmd: []string{"true"}}, container.HostConfig{Binds: []string{"data:/data:ro"}, AutoRemove: true})
	e.runToRemoval(id)
	if status := e.call("DELETE", "/volumes/data", "", nil); status != http.StatusNoContent {
		t.Fatalf("rm: %d", status)
	}
	for len(heard) < 4 {
		select {
		case m := <-events.Messages:
			heard = append(heard, string(m.Action))
			if m.Actor.ID != "data" || m.Actor.Attributes["driver"] != "local" {
				t.Errorf("%+v", m)
			}
			if m.Action == "mount" && (m.Actor.Attributes["container"] != id || m.Actor.Attributes["destination"] != "/data" || m.Actor.Attributes["read/write"] != "false") {
				t.Errorf("%+v", m)
			}
		case err := <-events.Err:
			t.Fatalf("heard %v: %v", heard, err)
		}
	}
	if want := []string{"create", "mount", "unmount", "destroy"}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}

// TestRemovalLetsVolumesBeWritten: a machine whose container is removed is ended only once its guest has let go of the volumes that stay.
func TestRemovalLetsVolumesBeWritten(t *testing.T) {
	ended := make(chan string, 8)
	good := daemontest.TetherGuest(t, nil)
	e := startOn(t, func(ctx context.Context, m *daemontest.Machine) {
		good(ctx, m)
		if spec, err := link.DecodeSpec(m.Get(link.KeySpec)); err != nil || spec.GetMode() != tetherv1.Mode_CONTAINER {
			return
		}
		select { // it writes what it has in its memory
		case <-ctx.Done():
			ended <- "killed"
		case <-time.After(200 * time.Millisecond):
			ended <- "in order"
		}
	}, ctr.Timeouts{})
	for name, c := range map[string]struct {
		cmd   string
		host  container.HostConfig
		force bool
		want  string
	}{
		"--rm, a volume with a name":   {"true", container.HostConfig{Binds: []string{"data:/data"}, AutoRemove: true}, false, "in order"},
		"rm -f, a volume with a name":  {"sleep", container.HostConfig{Binds: []string{"data:/data"}}, true, "in order"},
		"rm -f, a volume that is read": {"sleep", container.HostConfig{Binds: []string{"data:/data:ro"}}, true, "killed"},
		"rm -f, none":                  {"sleep", container.HostConfig{}, true, "killed"},
	} {
		id := e.create("", container.Config{Cmd: []string{c.cmd}}, c.host)
		if c.force {
			e.begin(id)
			e.removeForced(id)
		} else {
			e.runToRemoval(id)
		}
		if got := <-ended; got != c.want {
			t.Errorf("%s: the machine was ended %s, want %s", name, got, c.want)
		}
	}
}
