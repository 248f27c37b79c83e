#include "daemon/sys/memory.hpp"

#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

#include "daemon/sys/fd.hpp"

namespace userpod {
namespace {

// Of /proc/self/pagemap: Documentation/admin-guide/mm/pagemap.rst
constexpr std::uint64_t kPresent = 1ULL << 63;
constexpr std::uint64_t kOfFile = 1ULL << 61;  // else it is the process's own: changed, by a debugger too

struct Pages {
  std::uintptr_t first = 0;  // as number of the page in the address space
  std::size_t count = 0;
};

std::vector<Pages> readOnlySegments(std::size_t pageSize) {
  struct Search {
    std::size_t pageSize;
    std::vector<Pages> found;
  } search{pageSize, {}};
  ::dl_iterate_phdr(
      [](dl_phdr_info* object, std::size_t, void* passed) {
        auto& into = *static_cast<Search*>(passed);
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const auto& header = object->dlpi_phdr[i];
          if (header.p_type != PT_LOAD || (header.p_flags & PF_W) != 0) continue;
          auto begin = object->dlpi_addr + header.p_vaddr;
          auto first = begin / into.pageSize;
          auto last = (begin + header.p_memsz + into.pageSize - 1) / into.pageSize;
          into.found.push_back({first, last - first});
        }
        return 0;
      },
      &search);
  return std::move(search.found);
}

void unmapUnchanged(const UniqueFd& pagemap, Pages pages, std::size_t pageSize) {
  std::vector<std::uint64_t> entries(pages.count);
  auto size = static_cast<ssize_t>(pages.count * sizeof(entries[0]));
  if (::pread(pagemap.get(), entries.data(), static_cast<std::size_t>(size),
              static_cast<off_t>(pages.first * sizeof(entries[0]))) != size)
    return;
  constexpr auto kUnchanged = kPresent | kOfFile;
  for (std::size_t i = 0; i < pages.count;) {
    auto end = i;
    while (end < pages.count && (entries[end] & kUnchanged) == kUnchanged) ++end;
    if (end > i)
      (void)::madvise(reinterpret_cast<void*>((pages.first + i) * pageSize), (end - i) * pageSize, MADV_DONTNEED);
    i = end + 1;
  }
}

}  // namespace

void giveBackMemory() {
  ::malloc_trim(0);
  UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap) return;
  auto pageSize = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  for (const auto& pages : readOnlySegments(pageSize)) unmapUnchanged(pagemap, pages, pageSize);
}

}  // namespace userpod
