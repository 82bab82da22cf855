package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

const sshImageName = "containervm-bench-ssh:latest"

// sshIdentity are the keys of the guest's server and of the client.
type sshIdentity struct{ host, client string } // files; the client's public half is beside it

func newSSHIdentity(ctx context.Context, dir string) (sshIdentity, error) {
	id := sshIdentity{filepath.Join(dir, "dropbear-host-key"), filepath.Join(dir, "ssh-key")}
	for _, line := range [][]string{
		{"dropbearkey", "-t", "ed25519", "-f", id.host},
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", id.client},
	} {
		if out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput(); err != nil {
			return id, fmt.Errorf("cannot make a key (try: scripts/install-deps bench): %w\n%s", err, out)
		}
	}
	return id, nil
}

// sshRoot is a root with dropbear and the libraries that it needs, made of this machine's.
func sshRoot(ctx context.Context, dir string, id sshIdentity) ([]byte, error) {
	dropbear, err := exec.LookPath("dropbear")
	if err != nil {
		return nil, fmt.Errorf("%w; try: scripts/install-deps bench", err)
	}
	files := map[string]string{"busybox": "/bin/busybox", "bin/sh": "/bin/busybox", "bench": filepath.Join(dir, "guest"), "dropbear": dropbear,
		"host-key": id.host, "root/.ssh/authorized_keys": id.client + ".pub"}
	libraries, err := librariesOf(ctx, dropbear)
	if err != nil {
		return nil, err
	}
	for _, path := range libraries {
		files[strings.TrimPrefix(path, "/")] = path
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// dropbear refuses keys that others could write.
	for _, name := range []string{"root/", "root/.ssh/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o700}); err != nil {
			return nil, err
		}
	}
	if err := writeFile(w, "etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n")); err != nil {
		return nil, err
	}
	if err := finish(w, files); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// librariesOf asks the dynamic linker what a program is loaded with.
func librariesOf(ctx context.Context, program string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot learn the libraries of %s: %w", program, err)
	}
	return decodeLdd(string(out)), nil
}

// decodeLdd takes the paths: of lines "name => /path (address)" and "/path (address)".
func decodeLdd(text string) (paths []string) {
	for line := range strings.Lines(text) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			}
		}
	}
	return paths
}
