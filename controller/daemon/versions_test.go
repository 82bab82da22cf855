package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/controller/api"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link/linktest"
)

// everyVersion are the versions of the API that are advertised, from one on to another; in the short form those around which answers change.
func everyVersion(from, to string) (all []string) {
	number := func(version string) (minor int) {
		_, _ = fmt.Sscanf(version, "1.%d", &minor) // all are
		return minor
	}
	oldest, newest := max(number(from), number(api.MinVersion)), min(number(to), number(api.MaxVersion))
	long := os.Getenv("CVM_TEST_LONG") == "1"
	for minor := oldest; minor <= newest; minor++ {
		if long || minor == oldest || minor == newest || slices.Contains([]int{25, 29, 30, 40, 41, 44, 48, 51, 52}, minor) {
			all = append(all, fmt.Sprintf("1.%d", minor))
		}
	}
	return all
}

// TestVersions: what is advertised works: each client runs a container through its life at each version of the API that both speak, the oldest
// among them.
func TestVersions(t *testing.T) {
	e := start(t, func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.SetFile("/etc/", "")
		tether.SetFile("/etc/motd", "welcome")
	})
	t.Run("CommandLine", e.commandLineVersions)
	t.Run("Moby", e.mobyVersions)
	t.Run("Python", e.pythonVersions)
	e.gone()
}

// step is a command, and what it has to end with and to say.
type step struct {
	args string
	code int
	says string
}

// commandLineVersions: below 1.30 the stock client learns of the end by events, below 1.25 it removes the container itself.
func (e *engine) commandLineVersions(t *testing.T) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		vmtest.Missing(t, "there is no docker command (try: apt-get install docker-cli)")
	}
	home := t.TempDir()
	run := func(version, args string) (string, int) {
		ctx, cancel := context.WithTimeout(context.Background(), testTime/2)
		defer cancel()
		words := strings.Fields(args)
		for i := range words {
			words[i] = strings.NewReplacer("_", " ", "NOW", fmt.Sprintf("%.9f", float64(time.Now().UnixNano())/1e9)).Replace(words[i])
		}
		cmd := exec.CommandContext(ctx, docker, words...)
		cmd.Dir, cmd.WaitDelay = home, time.Second
		cmd.Env = []string{"DOCKER_HOST=unix://" + e.socket, "HOME=" + home, "DOCKER_API_VERSION=" + version}
		out, _ := cmd.CombinedOutput() // the code says it
		return string(out), cmd.ProcessState.ExitCode()
	}
	newest, code := run("", "version --format {{.Client.APIVersion}}")
	if code != 0 {
		t.Fatal(newest)
	}
	versions := everyVersion(api.MinVersion, strings.TrimSpace(newest))
	if len(versions) < 3 {
		t.Fatalf("the client has version %s, of which none are served", newest)
	}
	for _, version := range versions {
		steps := []step{
			{"run --rm --name a base echo hi", 0, "hi\n"},
			{"create --name b --label l=" + version + " base exit 3", 0, ""},
			{"start -a b", 3, "bye\n"},
			{"wait b", 0, "3\n"},
			{"logs b", 0, "bye\n"},
			{"run -d --name c base sleep", 0, ""},
			{"ps --format {{.Names}}", 0, "c\n"},
			{"inspect --format {{.HostConfig.LogConfig.Type}}/{{.State.Status}} c", 0, "json-file/running\n"},
			{"exec c echo of_exec", 0, "of exec\n"},
			{"cp c:/etc/motd motd", 0, ""},
			{"cp motd c:/etc/copy", 0, ""},
			{"stop -t 1 c", 0, "c\n"},
			{"events --since 60s --until NOW --filter container=c --filter event=start --format {{.Action}}", 0, "start\n"},
			{"rm -f b c", 0, "b\nc\n"},
			{"ps -aq", 0, ""},
		}
		if version == versions[0] || version == versions[len(versions)-1] { // it takes two seconds
			steps = slices.Insert(steps, 11, step{"stats --no-stream --format {{.Name}}/{{.MemUsage}} c", 0, "c/"})
		}
		for _, s := range steps {
			if out, code := run(version, s.args); code != s.code || !strings.Contains(out, s.says) || s.args == "ps -aq" && out != "" {
				t.Errorf("version %s, docker %s: %d %q, want %d %q", version, s.args, code, out, s.code, s.says)
			}
		}
	}
}

// mobyVersions: Moby's own client.
func (e *engine) mobyVersions(t *testing.T) {
	for _, version := range everyVersion(client.MinAPIVersion, client.MaxAPIVersion) {
		c, err := client.New(client.WithHost("unix://"+e.socket), client.WithAPIVersion(version))
		if err != nil {
			t.Fatal(err)
		}
		if err := lifeOf(e.ctx(), c); err != nil {
			t.Errorf("version %s: %v", version, err)
		}
		c.Close()
	}
}

// lifeOf has a container made, watched, used and removed by a client.
func lifeOf(ctx context.Context, c *client.Client) error {
	begun := time.Now()
	made, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "m", Config: &container.Config{Image: "base", Cmd: []string{"sleep"}}})
	if err != nil {
		return err
	}
	wait := c.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := c.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
		return err
	}
	seen, err := c.ContainerInspect(ctx, made.ID, client.ContainerInspectOptions{})
	if err != nil || !seen.Container.State.Running || seen.Container.HostConfig.LogConfig.Type != "json-file" {
		return fmt.Errorf("inspect: %+v, %w", seen.Container.State, err)
	}
	output, err := outputOfExec(ctx, c, made.ID)
	if err != nil || output != "hi\n" {
		return fmt.Errorf("exec: %q, %w", output, err)
	}
	if err := copies(ctx, c, made.ID); err != nil {
		return err
	}
	stats, err := c.ContainerStats(ctx, made.ID, client.ContainerStatsOptions{})
	if err != nil {
		return err
	}
	if text, err := io.ReadAll(stats.Body); err != nil || !bytes.Contains(text, []byte(`"pids_stats"`)) {
		return fmt.Errorf("stats: %s, %w", text, err)
	}
	if _, err := c.ContainerKill(ctx, made.ID, client.ContainerKillOptions{}); err != nil {
		return err
	}
	select {
	case end := <-wait.Result:
		if end.StatusCode != 137 {
			return fmt.Errorf("it ended with %d", end.StatusCode)
		}
	case err := <-wait.Error:
		return err
	}
	if _, err := c.ContainerRemove(ctx, made.ID, client.ContainerRemoveOptions{}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	told := c.Events(ctx, client.EventsListOptions{Since: fmt.Sprint(begun.Unix()), Filters: client.Filters{}.Add("container", made.ID)})
	var actions []string
	for !slices.Contains(actions, "destroy") { // it may be told after the answer
		select {
		case m := <-told.Messages:
			actions = append(actions, string(m.Action))
		case err := <-told.Err:
			return fmt.Errorf("events %q, %w", actions, err)
		}
	}
	if !slices.Contains(actions, "start") || !slices.Contains(actions, "die") {
		return fmt.Errorf("events %q", actions)
	}
	return nil
}

func outputOfExec(ctx context.Context, c *client.Client, id string) (string, error) {
	exec, err := c.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"echo", "hi"}, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return "", err
	}
	conn, err := c.ExecAttach(ctx, exec.ID, client.ExecAttachOptions{})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, conn.Reader); err != nil {
		return "", err
	}
	end, err := c.ExecInspect(ctx, exec.ID, client.ExecInspectOptions{})
	if err != nil || end.Running || end.ExitCode != 0 {
		return "", fmt.Errorf("%+v, %w", end, err)
	}
	return out.String(), nil
}

// copies has a file come out of a container, and go in.
func copies(ctx context.Context, c *client.Client, id string) error {
	from, err := c.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/etc/motd"})
	if err != nil {
		return err
	}
	defer from.Content.Close()
	tar, err := io.ReadAll(from.Content)
	if err != nil || from.Stat.Name != "motd" || !bytes.Contains(tar, []byte("welcome")) {
		return fmt.Errorf("copied %+v, %w", from.Stat, err)
	}
	_, err = c.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/etc", Content: bytes.NewReader(tar)})
	return err
}

// pythonVersions: docker-py, all versions by one process of it.
func (e *engine) pythonVersions(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.CommandContext(t.Context(), python, "-c", "import docker").Run(); err != nil {
		vmtest.Missing(t, python+" has no module docker; try: apt-get install python3-docker")
	}
	versions := everyVersion(api.MinVersion, api.MaxVersion)
	cmd := exec.CommandContext(t.Context(), python, append([]string{"testdata/versions.py"}, versions...)...)
	cmd.Env = []string{"DOCKER_HOST=unix://" + e.socket, "HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	want := ""
	for i, v := range versions {
		stats := ""
		if i == 0 || i == len(versions)-1 {
			stats = " True"
		}
		want += v + " b'hi\\n' running b'of exec\\n' 0 b'welcome' True" + stats + " 137 b'' die\n"
	}
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}
