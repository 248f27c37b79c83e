#include "daemon/images/client/retries.hpp"

#include <algorithm>
#include <random>

namespace userpod::images {

namespace {

constexpr int kMostFruitless = 4;
constexpr int kMostUnconnected = 3;  // a registry that is down is soon told: others may be asked instead
constexpr int kMost = 50;
constexpr std::uint64_t kProgress = 64U << 10;  // bytes that make a try worth its while

}  // namespace

std::optional<std::chrono::milliseconds> Retries::next(Trouble trouble, std::uint64_t received,
                                                       std::optional<std::chrono::seconds> after) {
  ++tries_;
  fruitless_ = received >= kProgress ? 0 : fruitless_ + 1;
  int most = trouble == Trouble::NoConnection ? kMostUnconnected : kMostFruitless;
  if (trouble == Trouble::None || trouble == Trouble::NoTls || fruitless_ >= most || tries_ >= kMost) return {};
  if (after && *after > kLongestWait) return {};
  static thread_local std::minstd_rand random{std::random_device{}()};
  // 0.25, 0.75, 2.25 s; each a quarter shorter or longer, so that many clients do not come back at once.
  double pause = 250;
  for (int i = 1; i < fruitless_; ++i) pause *= 3;
  pause *= std::uniform_real_distribution<double>(0.75, 1.25)(random);
  std::chrono::milliseconds wait(static_cast<std::int64_t>(pause));
  return after ? std::max<std::chrono::milliseconds>(*after, wait) : wait;
}

}  // namespace userpod::images
