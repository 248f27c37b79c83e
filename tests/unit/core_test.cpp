// What of the core needs no node.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>

#include "daemon/core/parking.hpp"

namespace userpod::core {
namespace {

UniqueFd take(Parking& parking, const std::string& id) {
  std::promise<UniqueFd> promise;
  parking.take(id, [&](UniqueFd socket) { promise.set_value(std::move(socket)); });
  return promise.get_future().get();
}

bool closed(const UniqueFd& monitor) {
  pollfd entry{monitor.get(), 0, 0};
  return ::poll(&entry, 1, 5000) == 1 && (entry.revents & POLLHUP) != 0;
}

TEST(Parking, KeepsDrainsAndGivesBack) {
  Parking parking;
  EXPECT_FALSE(take(parking, "a"));
  auto first = *makeSocketPair(SOCK_SEQPACKET);
  auto second = *makeSocketPair(SOCK_SEQPACKET);
  parking.park("a", std::move(first.second));
  parking.park("b", std::move(second.second));
  // The monitor is never kept waiting, and hears nothing of a close.
  const std::string packet(32 << 10, 'x');
  for (int i = 0; i < 1000; ++i)
    ASSERT_EQ(::send(first.first.get(), packet.data(), packet.size(), 0), static_cast<ssize_t>(packet.size()));
  EXPECT_FALSE(take(parking, "c"));
  auto taken = take(parking, "a");
  ASSERT_TRUE(taken);
  char byte = 0;
  EXPECT_EQ(::recv(taken.get(), &byte, 1, MSG_DONTWAIT), -1) << "what came earlier";
  EXPECT_EQ(errno, EAGAIN);
  ASSERT_EQ(::send(first.first.get(), "n", 1, 0), 1);
  EXPECT_EQ(::recv(taken.get(), &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'n');
  EXPECT_FALSE(take(parking, "a")) << "given away once";
  parking.park("a", std::move(taken));
  EXPECT_TRUE(take(parking, "a"));
  EXPECT_TRUE(closed(first.first)) << "the caller's now";
}

TEST(Parking, EndsWithTheMonitorAndWithTheDaemon) {
  auto first = *makeSocketPair(SOCK_SEQPACKET);
  auto second = *makeSocketPair(SOCK_SEQPACKET);
  {
    Parking parking;
    parking.park("a", std::move(first.second));
    parking.park("a", std::move(second.second));
    first.first.reset();
    EXPECT_TRUE(take(parking, "a")) << "one of two whose monitor lives";
    EXPECT_FALSE(take(parking, "a"));
    second = *makeSocketPair(SOCK_SEQPACKET);
    parking.park("a", std::move(second.second));
  }
  EXPECT_TRUE(closed(second.first));
}

}  // namespace
}  // namespace userpod::core
