package container

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// TestNonsense: values that mean nothing get Docker's status and words; what a machine of its own cannot have is refused by name.
func TestNonsense(t *testing.T) {
	security := func(options ...string) container.HostConfig { return container.HostConfig{SecurityOpt: options} }
	limits := func(r container.Resources) container.HostConfig { return container.HostConfig{Resources: r} }
	for _, c := range []struct {
		config container.Config
		host   container.HostConfig
		class  func(error) bool // nil: taken
		says   string
	}{
		{container.Config{Hostname: "a-b.c_D", Domainname: "example.com"}, container.HostConfig{}, nil, ""},
		{container.Config{Hostname: strings.Repeat("a", 65)}, container.HostConfig{}, errdefs.IsInvalidArgument, "invalid hostname"},
		{container.Config{Hostname: "a\n1.2.3.4 b"}, container.HostConfig{}, errdefs.IsInvalidArgument, "invalid hostname"},
		{container.Config{Domainname: "a b"}, container.HostConfig{}, errdefs.IsInvalidArgument, "invalid domainname"},
		{container.Config{}, limits(container.Resources{NanoCPUs: 1e9, CPUPeriod: 1000}), errdefs.IsInvalidArgument, "Conflicting options: Nano CPUs and CPU Period cannot both be set"},
		{container.Config{}, limits(container.Resources{NanoCPUs: 1e9, CPUQuota: 1000}), errdefs.IsInvalidArgument, "Conflicting options: Nano CPUs and CPU Quota"},
		{container.Config{}, limits(container.Resources{CPUPeriod: 10}), errdefs.IsInvalidArgument, "CPU cfs period can not be less than 1ms"},
		{container.Config{}, limits(container.Resources{CPUQuota: 10}), errdefs.IsInvalidArgument, "CPU cfs quota can not be less than 1ms"},
		{container.Config{}, limits(container.Resources{CPUQuota: -1}), nil, ""},
		{container.Config{}, container.HostConfig{PidMode: "bogus"}, errdefs.IsInvalidArgument, "invalid PID mode: bogus"},
		{container.Config{}, container.HostConfig{PidMode: "host"}, errdefs.IsNotImplemented, "PID mode host is not supported"},
		{container.Config{}, container.HostConfig{PidMode: "container:x"}, errdefs.IsNotImplemented, "PID mode container:x"},
		{container.Config{}, container.HostConfig{IpcMode: "bogus"}, errdefs.IsInvalidArgument, "invalid IPC mode: bogus"},
		{container.Config{}, container.HostConfig{IpcMode: "none"}, errdefs.IsNotImplemented, "IPC mode none"},
		{container.Config{}, container.HostConfig{IpcMode: "shareable"}, nil, ""},
		{container.Config{}, container.HostConfig{IpcMode: "private", CgroupnsMode: "private", UsernsMode: "host"}, nil, ""},
		{container.Config{}, container.HostConfig{UTSMode: "host"}, errdefs.IsNotImplemented, "UTS mode host"},
		{container.Config{}, container.HostConfig{UTSMode: "x"}, errdefs.IsInvalidArgument, "invalid UTS mode: x"},
		{container.Config{}, container.HostConfig{CgroupnsMode: "bogus"}, errdefs.IsInvalidArgument, "invalid cgroup namespace mode: bogus"},
		{container.Config{}, container.HostConfig{CgroupnsMode: "host"}, errdefs.IsNotImplemented, "cgroup namespace mode host"},
		{container.Config{}, container.HostConfig{UsernsMode: "x"}, errdefs.IsInvalidArgument, "invalid user namespace mode: x"},
		{container.Config{}, security("no-new-privileges", "no-new-privileges:true", "no-new-privileges=false"), nil, ""},
		{container.Config{}, security("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined", "label=disable", "seccomp:unconfined"), nil, ""},
		{container.Config{}, security("no-new-privileges=maybe"), errdefs.IsInvalidArgument, `invalid --security-opt 2: "no-new-privileges=maybe"`},
		{container.Config{}, security("bogus"), errdefs.IsInvalidArgument, `invalid --security-opt 1: "bogus"`},
		{container.Config{}, security("bogus=1"), errdefs.IsInvalidArgument, `invalid --security-opt 2: "bogus=1"`},
		{container.Config{}, security(`seccomp={"defaultAction":"SCMP_ACT_ERRNO"}`), errdefs.IsNotImplemented, "the security option seccomp is not supported"},
		{container.Config{}, security("apparmor=docker-default"), errdefs.IsNotImplemented, "the security option apparmor"},
		{container.Config{}, security("label=level:s0"), errdefs.IsNotImplemented, "the security option label"},
	} {
		c.config.Cmd = []string{"true"}
		err := check(&c.config, &c.host)
		if c.class == nil && err != nil || c.class != nil && (err == nil || !c.class(err) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+v %+v: %v, want %q", c.config, c.host, err, c.says)
		}
	}
}
