// A process that confines itself and then tries something.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "daemon/sys/error.hpp"

namespace userpod::testing {

// Whether the attempt, in a process of its own that was confined before, is true.
inline bool holdsInside(const std::function<Status()>& confine, const std::function<bool()>& attempt) {
  pid_t child = ::fork();
  if (child == 0) {
    auto confined = confine();
    if (!confined) (void)!::write(STDERR_FILENO, confined.error().text().data(), confined.error().text().size());
    ::_exit(!confined ? 100 : attempt() ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) != 100) << status;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace userpod::testing
