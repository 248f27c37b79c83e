// Keeps headers readable: libarchive drops an archive at the first wrong checksum, and mutations would end there.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>

#include "tests/fuzz/fuzz.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace {

constexpr std::size_t kBlock = 512;
constexpr std::size_t kSum = 148;  // of the checksum's eight bytes
constexpr std::size_t kMagic = 257;

void mendSum(std::uint8_t* header) {
  std::memset(header + kSum, ' ', 8);
  unsigned sum = 0;
  for (std::size_t i = 0; i < kBlock; ++i) sum += header[i];
  std::snprintf(reinterpret_cast<char*>(header + kSum), 8, "%06o", sum & 0777777);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  std::minstd_rand random(seed);
  std::size_t blocks = size / kBlock;
  if (blocks == 0 || random() % 8 == 0) {
    size = LLVMFuzzerMutate(data, size, most);
  } else if (random() % 8 == 0 && size + kBlock <= most) {
    // A block more: an entry twice, or data of one entry as the header of the next.
    std::size_t from = random() % blocks * kBlock;
    std::size_t to = random() % blocks * kBlock;
    std::uint8_t copy[kBlock];
    std::memcpy(copy, data + from, kBlock);
    std::memmove(data + to + kBlock, data + to, size - to);
    std::memcpy(data + to, copy, kBlock);
    size += kBlock;
  } else {
    // Within one block, and mostly one field of a header, so that all else stays where it is.
    static constexpr std::size_t kFields[][2] = {{0, 100},  {100, 8}, {108, 8},   {116, 8},  {124, 12},
                                                 {136, 12}, {156, 1}, {157, 100}, {345, 155}};
    std::size_t at = random() % blocks * kBlock;
    std::size_t length = kBlock;
    if (random() % 4 != 0) {
      const auto& field = kFields[random() % std::size(kFields)];
      at += field[0];
      length = field[1];
    }
    std::size_t kept = LLVMFuzzerMutate(data + at, length, length);
    std::fill(data + at + kept, data + at + length, 0);
  }
  for (std::size_t at = 0; at + kBlock <= size; at += kBlock)
    if (std::memcmp(data + at + kMagic, "ustar", 5) == 0) mendSum(data + at);
  return size;
}
