// A terminal that a program has for itself for a while: the alternate screen, keys one by one, no echo.
#pragma once

#include <termios.h>

#include <csignal>
#include <optional>
#include <string>
#include <vector>

#include "daemon/sys/fd.hpp"

namespace userpod::ctl {

// One at a time, in the main thread, before other threads are made: it blocks the signals that it answers.
class Terminal {
 public:
  // Standard input and output are terminals.
  static bool isOne();
  Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();  // all as it was before

  struct Size {
    std::size_t columns = 80;
    std::size_t rows = 24;
  };
  static Size size();  // of standard output
  void draw(const std::vector<std::string>& lines);

  enum class Event { None, Key, Resized, Resumed, Quit };  // Quit: a signal asks for it, or the terminal is gone
  struct Happened {
    Event event = Event::None;
    char key = 0;
  };
  // Waits for keys, signals, or `other` to be readable (then None), at most so long.
  Happened wait(int other, int milliseconds);

 private:
  void enter();
  void leave();
  Happened takeSignal();

  termios before_{};
  sigset_t mask_{};
  UniqueFd signals_;
  bool inside_ = false;
};

}  // namespace userpod::ctl
