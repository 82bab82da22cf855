package daemon_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
)

func TestGovcDatastore(t *testing.T) {
	e := daemontest.Start(t, nil).Endpoint
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustGovc(t, e, "datastore.upload", file, "one/file")
	mustGovc(t, e, "datastore.mkdir", "two")
	mustGovc(t, e, "datastore.mv", "one/file", "two/moved")
	mustGovc(t, e, "datastore.cp", "two/moved", "two/copied")
	wants(t, mustGovc(t, e, "datastore.ls", "-l", "two"), "moved", "copied", "7B")
	wants(t, mustGovc(t, e, "datastore.ls", "-R"), "[local] cvm/boot:")
	wants(t, mustGovc(t, e, "datastore.info"), "local")
	back := filepath.Join(dir, "back")
	mustGovc(t, e, "datastore.download", "two/copied", back)
	if data, err := os.ReadFile(back); err != nil || string(data) != "content" {
		t.Errorf("downloaded %q, %v", data, err)
	}
	mustGovc(t, e, "datastore.rm", "two/copied")
	if out, err := govc(t, e, "datastore.rm", "two/copied"); err == nil {
		t.Errorf("removed twice: %s", out)
	}
	if out, err := govc(t, e, "datastore.download", "two/copied", "-"); err == nil {
		t.Errorf("downloaded what is gone: %s", out)
	}
}

func TestGovcLooksAround(t *testing.T) {
	e := daemontest.Start(t, nil).Endpoint
	wants(t, mustGovc(t, e, "find", "/", "-type", "s"), "/ha-datacenter/datastore/local")
	mustGovc(t, e, "pool.create", "-mem.limit", "512", "/ha-datacenter/host/*/Resources/team")
	wants(t, mustGovc(t, e, "pool.info", "/ha-datacenter/host/*/Resources/team"), "team")
	mustGovc(t, e, "pool.change", "-mem.limit", "256", "/ha-datacenter/host/*/Resources/team")
	mustGovc(t, e, "vm.create", "-on=false", "-m", "64", "-pool", "team", "-disk.controller", "pvscsi", "-net.adapter", "vmxnet3", "a")
	wants(t, mustGovc(t, e, "object.collect", "-s", "/ha-datacenter/vm/a", "config.hardware.memoryMB"), "64")
	wants(t, mustGovc(t, e, "object.collect", "/ha-datacenter/vm/a"), "config", "runtime")
	wants(t, mustGovc(t, e, "host.info"), "containerVM")
	wants(t, mustGovc(t, e, "session.ls"), e.Username)
	wants(t, mustGovc(t, e, "find", "/", "-type", "m", "-name", "a"), "/ha-datacenter/vm/a")
	wants(t, mustGovc(t, e, "vm.info", "-vm.uuid", mustGovc(t, e, "object.collect", "-s", "/ha-datacenter/vm/a", "config.uuid")[:36]), "a")
	mustGovc(t, e, "vm.disk.create", "-vm", "a", "-name", "a/data", "-size", "1GB")
	wants(t, mustGovc(t, e, "device.ls", "-vm", "a"), "disk-1000-0")
	mustGovc(t, e, "device.remove", "-vm", "a", "disk-1000-0")
	mustGovc(t, e, "vm.change", "-vm", "a", "-name", "b", "-m", "128", "-c", "2")
	mustGovc(t, e, "object.rename", "/ha-datacenter/vm/b", "c")
	wants(t, mustGovc(t, e, "vm.info", "c"), "128MB", "2 vCPU")
	mustGovc(t, e, "pool.destroy", "/ha-datacenter/host/*/Resources/team")
	mustGovc(t, e, "vm.destroy", "c")
	wants(t, mustGovc(t, e, "tasks"), "VirtualMachine.Destroy")
}
