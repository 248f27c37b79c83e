// Memory of a process that has come to rest.
#pragma once

namespace userpod {

// Gives back the free pages of the heap, and every page of the program and its libraries that is still as in its file.
// The kernel maps sixteen of them around each that is touched, so that after a start nearly all of a program counts as
// used; what is needed again comes from the page cache, without a read. Takes a millisecond, with a heap of many pieces
// a tenth of a second; from any thread.
void giveBackMemory();

}  // namespace userpod
