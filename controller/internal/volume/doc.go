// Package volume keeps volumes: data with a name that outlives the containers that mount it.
//
// A volume is a disk of its own, `cvm-volumes/<id>.vmdk`, or says where an NFS server has its data, or that it is memory. What is known of
// it beside the disk is in an index on the datastore, `cvm/volumes.json`, which the Service alone writes.
//
// A volume is in the index before its disk is made, and still is while its disk is removed: it is pending then, and nobody sees it. The
// volumes without a name that are made for a container are pending until the container exists, and again from the moment on at which it
// is removed together with them. So a controller that dies leaves nothing but pending volumes, and what becomes of them is seen from the
// containers: a pending volume that a container has stays, any other goes (Sweep). No file goes that the index does not say so of: a
// disk that it does not name is somebody's, and stays.
//
// The lock of a name is held while a volume of that name is made or removed. Whoever holds it waits for the host and for the index, and
// for no other lock.
package volume
