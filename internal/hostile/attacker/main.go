// Command attacker is the process of a hostile container; see package hostile. It is root in its machine unless the test says otherwise.
//
// `attacker NAME ARGUMENTS` makes one attack, which is bounded in work rather than in time, and says on standard error what came of it in
// lines of "KEY: VALUE". `attacker sibling` is the container beside it, which has to go on.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	attacks := map[string]func(args []string){
		"sibling": sibling,
		"logs":    floodLogs, "console": floodConsole, "vsock": connectVsock, "guestinfo": setGuestinfo, "records": sendRecords,
		"tmpfs": fillTmpfs, "memory": takeMemory, "forks": forkBomb, "disk": fillDisk,
		"network": attackNetwork, "devices": rebindDevices, "hang": hangMachine, "panic": panicMachine, "kernel": attackKernel,
	}
	if len(os.Args) < 2 || attacks[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "which attack?")
		os.Exit(2)
	}
	attacks[os.Args[1]](os.Args[2:])
	say("ended", os.Args[1])
}

// say tells the test what came of something.
func say(key string, value any) { fmt.Fprintf(os.Stderr, "%s: %v\n", key, value) }

// escapes do things on a terminal: they clear it, name it, and have it answer as if its user had typed.
const escapes = "\x1b[2J\x1b]0;mine\x07\x1b[6n\x9b31m\r\x00\xff\u202e"

// forever waits for the test to remove the machine.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}
