package main

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// A program of a rehearsal: it lies on the disk, as a container's does, says programText and touches each of its pages.
const (
	programPath  = "/rehearsal"
	programText  = "rehearsal\n"
	programBytes = 128 << 10 // what Linux reads ahead at once (VM_READAHEAD_PAGES)
	programBase  = 0x400000
	pageBytes    = 4096
)

// writeProgram puts the program on the disk, and nowhere else: it is read from there when it runs.
func writeProgram() error {
	f, err := os.OpenFile(programPath, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = f.Write(program())
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return errors.Join(err, f.Close())
}

// program is an ELF executable for x86-64 Linux (System V ABI, AMD64 supplement): one segment, that is the whole file.
func program() []byte {
	const headers = 64 + 56
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0} // 64 bits, little endian, version 1
	b = le.AppendUint16(b, 2)                        // ET_EXEC
	b = le.AppendUint16(b, 62)                       // EM_X86_64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, programBase+headers) // entry
	b = le.AppendUint64(b, 64)                  // the program header follows
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, n := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, n)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // readable and executable
	for _, n := range []uint64{0, programBase, programBase, programBytes, programBytes, pageBytes} {
		b = le.AppendUint64(b, n)
	}
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 46, 0, 0, 0, // lea rsi, [rip+46]: the text
		0xba, byte(len(programText)), 0, 0, 0, // mov edx, its length
		0x0f, 0x05, // syscall
		0xbe, 0, 0, programBase >> 16, 0, // mov esi, programBase
		0xb9, programBytes / pageBytes, 0, 0, 0, // mov ecx, pages
		0x8a, 0x06, // mov al, [rsi]
		0x48, 0x81, 0xc6, 0, pageBytes >> 8, 0, 0, // add rsi, pageBytes
		0xff, 0xc9, // dec ecx
		0x75, 0xf3, // jnz -13
		0x31, 0xff, // xor edi, edi
		0xb8, 60, 0, 0, 0, // mov eax, 60 (exit)
		0x0f, 0x05, // syscall
		0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, // never reached
	}
	b = append(append(b, code...), programText...)
	return append(b, make([]byte, programBytes-len(b))...)
}
