// Package vmlog is the output of a VM's runs: records in files of bounded size, which are named by the offset that they begin with
// (hostapi.LogFileAt). Offsets go on over files and runs. When a file is full the next one is begun, with a marker that says which run goes on,
// and when there are more than may be the oldest goes. One process writes a log, that behind the VM's machine; a VM that is off has its
// files read by whoever asks.
package vmlog
