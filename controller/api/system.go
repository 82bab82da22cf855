package api

import (
	"net/http"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/image"
	"github.com/containervm/containervm/controller/internal/logconf"
	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/volume"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// systemAPI tells of the engine itself.
type systemAPI struct {
	containers *container.Service
	images     *image.Store
	templates  *template.Store
	host       Host
	version    string
}

func (a *systemAPI) routes(r *router) {
	r.handle("GET /_ping", a.ping) // HEAD too (http.ServeMux)
	r.handle("GET /version", a.getVersion)
	r.handle("GET /info", a.info)
	r.handle("POST /auth", auth)
	r.handle("GET /plugins", a.plugins)
	r.handle("POST /build/prune", a.pruneBuilds)
}

// plugins: there are none.
func (a *systemAPI) plugins(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, []struct{}{})
}

// pruneBuilds is asked by `docker system prune`; there is no cache of builds.
func (a *systemAPI) pruneBuilds(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, build.CachePruneReport{})
}

func (a *systemAPI) ping(w http.ResponseWriter, _ *http.Request) error {
	h := w.Header()
	h.Set("Builder-Version", "1") // there is no BuildKit
	h.Set("Swarm", "inactive")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", "2")
	_, err := w.Write([]byte("OK")) // the server drops it for HEAD
	return err
}

func (a *systemAPI) getVersion(w http.ResponseWriter, r *http.Request) error {
	host, err := a.host.Host(r.Context())
	if err != nil {
		return err
	}
	commit, built := buildInfo()
	engine := map[string]string{
		"ApiVersion": MaxVersion, "MinAPIVersion": MinVersion, "Arch": runtime.GOARCH, "Os": "linux",
		"GitCommit": commit, "BuildTime": built, "GoVersion": runtime.Version(), "Experimental": "false", "KernelVersion": host.Kernel,
	}
	return writeJSON(w, http.StatusOK, system.VersionResponse{
		Platform: system.PlatformInfo{Name: "containerVM"},
		Version:  a.version, APIVersion: MaxVersion, MinAPIVersion: MinVersion,
		Os: "linux", Arch: runtime.GOARCH, GitCommit: commit, BuildTime: built, GoVersion: runtime.Version(), KernelVersion: host.Kernel,
		Components: []system.ComponentVersion{
			{Name: "Engine", Version: a.version, Details: engine},
			{Name: "vSphere", Version: host.Version, Details: map[string]string{"Product": host.Product, "Host": host.Name, "Accelerator": host.Accelerator}},
		},
	})
}

// buildInfo is what the Go toolchain stamped into the program.
func buildInfo() (commit, built string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value
		case "vcs.time":
			built = s.Value
		}
	}
	return commit, built
}

func (a *systemAPI) info(w http.ResponseWriter, r *http.Request) error {
	host, err := a.host.Host(r.Context())
	if err != nil {
		return err
	}
	info := a.describe(host)
	forks, err := a.forkStatus(r.Context())
	if err != nil {
		return err
	}
	info.DriverStatus = append(info.DriverStatus, forks...)
	for _, c := range a.containers.All() {
		info.Containers++
		switch c.State() {
		case "running":
			info.ContainersRunning++
		case "paused":
			info.ContainersPaused++
		default:
			info.ContainersStopped++
		}
	}
	return writeJSON(w, http.StatusOK, info)
}

func (a *systemAPI) describe(host vsphere.HostInfo) system.Info {
	info := system.Info{
		ID: host.Name, Name: host.Name, ServerVersion: a.version,
		Images: len(a.images.List()),
		Driver: storageDriver, DriverStatus: [][2]string{{"vSphere", host.Product}, {"Accelerator", host.Accelerator}, {"CPU", host.CPUModel}},
		Plugins: system.PluginsInfo{
			Log: logconf.Drivers(), Network: []string{networkDriver}, Volume: []string{volume.Driver}, Authorization: nil,
		},
		MemoryLimit: true, SwapLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, CPUSet: true, PidsLimit: true, IPv4Forwarding: true,
		KernelVersion: host.Kernel, DockerRootDir: host.Datastore,
		NGoroutines: runtime.NumGoroutine(), SystemTime: time.Now().Format(time.RFC3339Nano),
		LoggingDriver: logconf.JSONFile, CgroupDriver: "cgroupfs", CgroupVersion: "2", // of the guests
		IndexServerAddress: indexServer, Labels: []string{}, CDISpecDirs: []string{},
		OperatingSystem: "containerVM on " + host.Product, OSType: "linux", Architecture: unameMachine(host.Architecture),
		NCPU: host.CPUs, MemTotal: host.MemoryBytes,
		RegistryConfig: &registry.ServiceConfig{
			InsecureRegistryCIDRs: insecure(), Mirrors: []string{},
			IndexConfigs: map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}},
		},
		Swarm:           swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		Runtimes:        runtimes(),
		DefaultRuntime:  container.RuntimeFork,
		SecurityOptions: []string{"name=vm"}, LiveRestoreEnabled: true,
		Warnings: []string{},
	}
	if strings.HasPrefix(host.Accelerator, "TCG") {
		info.Warnings = append(info.Warnings, "WARNING: machines are emulated, not accelerated ("+host.Accelerator+")")
	}
	if host.Jail != "" {
		info.DriverStatus = append(info.DriverStatus, [2]string{"Jail", host.Jail})
	}
	for _, l := range host.Lacks {
		info.Warnings = append(info.Warnings, "WARNING: "+l)
	}
	return info
}

// insecure are the addresses at which registries are spoken to without TLS: this machine's own.
func insecure() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")}
}

// indexServer is what `docker login` without a name means.
const indexServer = "https://index.docker.io/v1/"

// unameMachine is what uname -m says on an architecture; Docker's info has that name.
func unameMachine(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	default:
		return goarch
	}
}
