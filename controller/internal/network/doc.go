// Package network keeps the networks of containers, and the addresses in them.
//
// A network is a port group of vSphere, made and removed by vSphere's own calls, and an entry of the index on the datastore, which
// says what vSphere has no words for: labels, subnets, options. What the host's switch needs of it (gateways, MTU) is told to a host
// that has the extension "networks". An address has no entry anywhere: it is in use while the record of a VM names it
// (record.KeyNetworks), or while it is reserved for one that is being made.
//
// Each state has one owner:
//
//	indexfile    the index as the datastore has it, and the queue of its changes
//	uses         which networks are in use by operations in flight, which are being removed, and which addresses are reserved
//
// A network that is being made or removed stands in the index, marked, before anything is changed on the host, and is no network
// to users. So whatever a crash leaves is cleared by the next start, or by the next try. The mutex inside uses is held only while
// memory is read or changed.
package network
