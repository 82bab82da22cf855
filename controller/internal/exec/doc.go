// Package exec runs processes beside a container's own: Docker's exec sessions.
//
// A session is made, started once, and ends with its process or with its machine. It is known by the controller that made it; a
// session that was started outlives that controller in its guest, and the next one adopts it when it is asked for it:
//
//	made     ExecCreate has been called; nothing of it is in the guest
//	started  the process is being started
//	running  the process runs
//	ended    it has ended, could not be started, or its machine has ended; it can be asked for a while longer
package exec
