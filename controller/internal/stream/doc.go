// Package stream carries the streams of containers' main processes: attachments, which read what is written while they are there,
// and logs, which read what was written. Both read the log that the host keeps of a VM's runs; stdin goes to the tether.
//
// An attachment belongs to one run of its container: the present one, or when the container does not run the one in which it is
// started next.
package stream
