package main

import "syscall"

func getpid32() int32

// call32 makes a system call of i386.
func call32() error {
	if n := getpid32(); n < 0 {
		return syscall.Errno(-n)
	}
	return nil
}
