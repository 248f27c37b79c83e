// Method calls that wait for their answer, and the way to the bus thread.
//
// sdbus-c++ sends nothing when a Result is dropped, and crashes when one outlives its connection; libsystemd reads the
// object's vtable when a reply leaves, so that a call must be answered before its object is unregistered. So Results
// stay on the bus thread in one table that ends before the connection, and knows which object each belongs to; what
// travels through the core is a handle without one.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "daemon/sys/executor.hpp"
#include "dbus/compat.hpp"
#include "dbus/paths.hpp"

namespace userpod::bus {

// Brings tasks to the bus thread for as long as it runs. Shared by everything that may call from elsewhere.
class Courier : public std::enable_shared_from_this<Courier> {
 public:
  // `after` runs on the bus thread once for each batch of tasks: libsystemd must look at its queues then.
  Courier(EventLoop& loop, std::function<void()> after) : loop_(&loop), after_(std::move(after)) {}

  // Any thread. The task is dropped, without running, when the bus front end has ended.
  void post(std::function<void()> task);
  // Before the loop ends; afterwards every post drops its task.
  void close();

 private:
  void send(std::function<void()> task);

  std::mutex mutex_;
  EventLoop* loop_;  // guarded by mutex_
  std::function<void()> after_;
  bool afterDue_ = false;  // bus thread only
};

// Runs what may throw an sdbus::Error, on the bus thread; a failure is logged with what was tried.
void attempt(std::string_view what, const std::function<void()>& action);

class HeldCall {
 public:
  explicit HeldCall(std::string path) : path_(std::move(path)) {}
  HeldCall(const HeldCall&) = delete;
  HeldCall& operator=(const HeldCall&) = delete;
  virtual ~HeldCall() = default;
  virtual void fail(const Error& error) = 0;
  const std::string& path() const { return path_; }  // of the object that was called

 private:
  std::string path_;
};

// The calls of one connection that are not answered yet. Bus thread only.
class HeldCalls {
 public:
  HeldCalls() = default;
  HeldCalls(const HeldCalls&) = delete;
  HeldCalls& operator=(const HeldCalls&) = delete;
  ~HeldCalls() { calls_.clear(); }  // each answers Canceled

  void add(std::shared_ptr<HeldCall> call) { calls_.insert(std::move(call)); }
  void drop(const std::shared_ptr<HeldCall>& call) { calls_.erase(call); }
  // The object is about to leave the bus: whoever still waits for it gets Canceled now.
  void objectLeaves(const std::string& path) {
    std::erase_if(calls_, [&](const auto& call) {
      if (call->path() != path) return false;
      call->fail(Error(Code::Canceled, path + " has gone"));
      return true;
    });
  }

 private:
  std::unordered_set<std::shared_ptr<HeldCall>> calls_;
};

template <typename... Values>
class HeldResult final : public HeldCall {
 public:
  HeldResult(std::string path, sdbus::Result<Values...>&& result)
      : HeldCall(std::move(path)), result_(std::move(result)) {}
  ~HeldResult() override {
    if (!answered_) fail(Error(Code::Canceled, "the daemon ended or gave up before it could answer"));
  }
  void fail(const Error& error) override {
    answered_ = true;
    attempt("answer a call with an error",
            [&] { result_.returnError(makeError(Error(error.code(), cleanText(error.text())))); });
  }
  void send(const Values&... values) {
    answered_ = true;
    attempt("answer a call", [&] { result_.returnResults(values...); });
  }

 private:
  sdbus::Result<Values...> result_;
  bool answered_ = false;
};

// The right to answer one call, once. Copies are the same right; when the last is gone without an answer, the caller
// gets Canceled. Any thread; the answer leaves after everything posted to the bus thread before it.
template <typename... Values>
class Reply {
 public:
  // Bus thread.
  Reply(std::shared_ptr<Courier> courier, HeldCalls& held, std::string path, sdbus::Result<Values...>&& result) {
    auto call = std::make_shared<HeldResult<Values...>>(std::move(path), std::move(result));
    ticket_ = std::make_shared<Ticket>(std::move(courier), &held, call);
    held.add(std::move(call));
  }
  void send(Values... values) const {
    ticket_->use([values = std::make_tuple(std::move(values)...)](HeldResult<Values...>& call) {
      std::apply([&](const auto&... parts) { call.send(parts...); }, values);
    });
  }
  // Bus thread: the answer leaves before this returns.
  void sendNow(const Values&... values) const {
    if (auto call = ticket_->call.lock()) {
      call->send(values...);
      ticket_->held->drop(call);
    }
  }
  void fail(Error error) const {
    ticket_->use([error = std::move(error)](HeldResult<Values...>& call) { call.fail(error); });
  }

 private:
  // `held` is valid whenever the weak pointer still leads to a call: the table owns the calls.
  struct Ticket {
    Ticket(std::shared_ptr<Courier> courierIn, HeldCalls* heldIn, std::weak_ptr<HeldResult<Values...>> callIn)
        : courier(std::move(courierIn)), held(heldIn), call(std::move(callIn)) {}
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;
    ~Ticket() {
      courier->post([table = held, weak = call] {
        if (auto shared = weak.lock()) table->drop(shared);  // answers Canceled if nobody did
      });
    }
    void use(std::function<void(HeldResult<Values...>&)> answer) {
      courier->post([table = held, weak = call, answer = std::move(answer)] {
        auto shared = weak.lock();
        if (!shared) return;
        answer(*shared);
        table->drop(shared);
      });
    }
    std::shared_ptr<Courier> courier;
    HeldCalls* held;
    std::weak_ptr<HeldResult<Values...>> call;
  };
  std::shared_ptr<Ticket> ticket_;
};

}  // namespace userpod::bus
