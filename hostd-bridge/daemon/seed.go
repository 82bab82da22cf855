package daemon

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
)

// seed copies the boot artefacts from the guest directory into the datastore, under names with their hashes: VMs that
// were made with older ones keep those.
func seed(store *datastore.Store, guestDir string) (*hostapi.BootFiles, error) {
	var boot hostapi.BootFiles
	for _, a := range []struct {
		file, target string
		path         *string
	}{
		{"vmlinux", "cvm/boot/kernel-%s", &boot.Kernel},
		{"bzImage", "cvm/boot/bzimage-%s", &boot.KernelBz},
		{"initramfs.cpio", "cvm/boot/initramfs-%s", &boot.Initrd},
		{"blank.vmdk", "cvm/blank-%s.vmdk", &boot.Blank},
		{"volume.vmdk", "cvm/volume-%s.vmdk", &boot.Volume},
	} {
		var err error
		if *a.path, err = seedFile(store, filepath.Join(guestDir, a.file), a.target); err != nil {
			return nil, fmt.Errorf("cannot put %s into the datastore: %w (make guest builds it)", a.file, err)
		}
	}
	index, err := json.Marshal(boot)
	if err != nil {
		return nil, err
	}
	return &boot, store.Write(hostapi.BootIndex, strings.NewReader(string(index)), int64(len(index)))
}

func seedFile(store *datastore.Store, source, target string) (string, error) {
	f, err := os.Open(source)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	if err != nil {
		return "", err
	}
	rel := fmt.Sprintf(target, fmt.Sprintf("%x", hash.Sum(nil)[:8]))
	if info, err := store.Stat(rel); err == nil && info.Size() == size {
		return rel, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return rel, store.Write(rel, f, size)
}
