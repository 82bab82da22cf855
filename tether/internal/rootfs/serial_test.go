package rootfs

import (
	"os"
	"path/filepath"
	"testing"
)

// disks makes what sysfs has of disks: one of virtio's, one on SCSI with a serial number, one of vSphere's, and one without anything.
func disks(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"vda/serial": "root\n", "sda/device/vpd_pg80": "\x00\x80\x00\x06 vol1 ", "sda/device/vendor": "QEMU    \n",
		"hosts/2:0:5:0/vendor": "VMware  \n", "sdc/size": "0",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	must(t, os.Mkdir(filepath.Join(dir, "sdb"), 0o755))
	must(t, os.Symlink("../hosts/2:0:5:0", filepath.Join(dir, "sdb/device")))
	return dir
}

func TestFindSerial(t *testing.T) {
	dir := disks(t)
	for serial, want := range map[string]string{"root": "vda", "vol1": "sda", "vol5": "sdb", "vol2": "", "vol": "", "QEMU": ""} {
		if got, err := findSerial(dir, serial); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", serial, got, err, want)
		}
	}
}

// FuzzSerial: a page of any bytes is a serial number or none.
func FuzzSerial(f *testing.F) {
	f.Add([]byte("\x00\x80\x00\x04vol1"))
	f.Add([]byte("\x00\x80\xff\xffx"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, page []byte) {
		must(t, os.MkdirAll(dir+"/sda/device", 0o755))
		must(t, os.WriteFile(dir+"/sda/device/vpd_pg80", page, 0o600))
		if got := serialOf(dir + "/sda"); len(got) > len(page) {
			t.Errorf("%q gave %q", page, got)
		}
	})
}
