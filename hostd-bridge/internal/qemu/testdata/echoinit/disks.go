package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/link"
)

// answer answers questions about SCSI disks and network cards, one a line:
//
//	list                 serial, size in sectors and "ro" or "rw" of each, sorted and separated by commas
//	await SERIAL         when it is there
//	awaitGone SERIAL     when it is not
//	read SERIAL OFFSET   16 bytes, past the cache
//	write SERIAL OFFSET TEXT, through the cache
//	fill SERIAL          writes until it cannot, and says why
//	cards                name, address and carrier of each
//	carrier CARD 0|1     when it has none, or one
//	send CARD TEXT       a frame
//	hear CARD TEXT       when a frame has come
//	receipt              hands in a fork's receipt
func answer(c *vsock.Conn) {
	for lines := bufio.NewScanner(c); lines.Scan(); {
		answer, err := answerTo(strings.Fields(lines.Text()))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Fprintln(c, answer)
	}
}

func answerTo(words []string) (string, error) {
	switch words[0] {
	case "cards":
		return listCards()
	case "carrier":
		awaitCarrier(words[1], words[2])
		return "ok", nil
	case "send":
		return "ok", sendFrame(words[1], words[2])
	case "receipt":
		return askHost("info-set " + link.KeyReceipt + " {}")
	case "hear":
		return "ok", hear(words[1], words[2])
	}
	return ofDisk(words)
}

func ofDisk(words []string) (string, error) {
	var offset int64
	if len(words) > 2 {
		fmt.Sscan(words[2], &offset)
	}
	switch words[0] {
	case "list":
		return listDisks(), nil
	case "await", "awaitGone":
		for {
			if _, err := findDisk(words[1]); (err == nil) == (words[0] == "await") {
				return "ok", nil
			}
			time.Sleep(time.Millisecond)
		}
	case "read":
		f, err := openDisk(words[1], os.O_RDONLY)
		if err != nil {
			return "", err
		}
		defer f.Close()
		unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
		b := make([]byte, 16)
		_, err = f.ReadAt(b, offset)
		return strings.TrimRight(string(b), "\x00"), err
	case "write":
		f, err := openDisk(words[1], os.O_WRONLY|unix.O_DSYNC)
		if err != nil {
			return "", err
		}
		_, err = f.WriteAt(append([]byte(words[3]), make([]byte, 16-len(words[3]))...), offset)
		return "ok", errors.Join(err, f.Close())
	case "fill":
		f, err := openDisk(words[1], os.O_WRONLY|unix.O_DSYNC)
		if err != nil {
			return "", err
		}
		defer f.Close()
		for b := make([]byte, 1<<20); ; {
			b[0]++
			if n, err := f.Write(b); err != nil {
				return fmt.Sprintf("%d: %v", n, err), nil
			}
		}
	}
	return "", errors.ErrUnsupported
}

// eachDisk yields the directories of disks in sysfs by their serial numbers (page 0x80 of the vital product data, SPC-4 7.8.15).
func eachDisk(f func(serial, dir string)) {
	dirs, _ := filepath.Glob("/sys/block/sd*")
	for _, dir := range dirs {
		if page, err := os.ReadFile(dir + "/device/vpd_pg80"); err == nil && len(page) > 4 {
			f(strings.TrimSpace(string(page[4:])), dir)
		}
	}
}

func listDisks() string {
	var all []string
	eachDisk(func(serial, dir string) {
		size, _ := os.ReadFile(dir + "/size")
		mode := "rw"
		if ro, _ := os.ReadFile(dir + "/ro"); strings.TrimSpace(string(ro)) == "1" {
			mode = "ro"
		}
		all = append(all, serial+" "+strings.TrimSpace(string(size))+" "+mode)
	})
	slices.Sort(all)
	return strings.Join(all, ",")
}

func findDisk(serial string) (dev string, err error) {
	eachDisk(func(s, dir string) {
		if s == serial {
			dev = "/dev/" + filepath.Base(dir)
		}
	})
	if dev == "" {
		return "", fs.ErrNotExist
	}
	return dev, nil
}

func openDisk(serial string, flags int) (*os.File, error) {
	dev, err := findDisk(serial)
	if err != nil {
		return nil, err
	}
	return os.OpenFile(dev, flags, 0)
}
