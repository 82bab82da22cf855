// Mkinitramfs writes the archive that containerVMs boot from.
//
//	mkinitramfs -init bin/tether -o bin/guest/initramfs.cpio
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/containervm/containervm/initramfs"
)

func main() {
	init := flag.String("init", "", "the program that becomes /init: a static Linux executable")
	out := flag.String("o", "", "the archive to write")
	flag.Parse()
	if *init == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := build(*out, *init); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitramfs:", err)
		os.Exit(1)
	}
}

// build writes beside the target and renames, so that nobody boots half an archive.
func build(out, init string) error {
	program, err := os.ReadFile(init)
	if err != nil {
		return fmt.Errorf("cannot read init: %w", err)
	}
	f, err := os.Create(out + ".new")
	if err != nil {
		return fmt.Errorf("cannot create archive: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := initramfs.Write(f, initramfs.Content(program)); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot write archive: %w", err)
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return fmt.Errorf("cannot put archive in place: %w", err)
	}
	return nil
}
