// What steps, prices and times are called.

/** A step as a sentence, with its picture and its tone. */
export function sentence(step) {
  switch (step.step) {
    case "sessionCreated":
      return { icon: "page", tone: "plain", text: "Session created: the pay page is open", id: step.session };
    case "sessionCompleted":
      return step.paid
        ? { icon: "paid", tone: "plain", text: "Paid on the pay page", id: step.session }
        : { icon: "waiting", tone: "wait", text: "Ordered: the bank transfer is on its way", id: step.session };
    case "paymentDeclined":
      return { icon: "declined", tone: "bad", text: "The payment was declined", id: step.session };
    case "eventDelivered":
      return { ...delivered(step), id: step.event };
    case "eventWithheld":
      return { icon: "held", tone: "wait", text: `Held back: ${step.kind}`, id: step.event };
    case "eventApplied":
      return { icon: "applied", tone: "good", text: `Applied: ${step.kind} had its effect`, id: step.event };
    case "eventUnhandled":
      return { icon: "page", tone: "plain", text: `Noted: ${step.kind} changes nothing here`, id: step.event };
    case "eventNotApplied":
      return { icon: "waiting", tone: "wait", text: `Taken, nothing changed: ${step.why}`, id: step.event };
    case "duplicateSkipped":
      return { icon: "skipped", tone: "twice", text: "Duplicate skipped: nothing was done twice", id: step.event };
    case "cacheWritten":
      return { icon: "cache", tone: "good", text: `Cache written: readers see ${step.level}, version ${step.version}` };
    default:
      return { icon: "page", tone: "plain", text: step.step };
  }
}

function delivered({ kind, status, attempt, idempotent }) {
  const which = attempt > 1 ? ` in attempt ${attempt}` : "";
  if (status === 0) {
    return { icon: "failed", tone: "bad", text: `Stripe delivered ${kind}, got no answer${which}, and will try again` };
  }
  if (status < 200 || status > 299) {
    return { icon: "failed", tone: "bad", text: `Stripe delivered ${kind} → ${status}${which}, and will try again` };
  }
  const again = idempotent ? ", idempotent: true" : "";
  return { icon: "delivered", tone: idempotent ? "twice" : "plain", text: `Stripe delivered ${kind} → ${status}${which}${again}` };
}

export function price(plan) {
  if (plan.price === null) {
    return { amount: "See the pay page", per: "" };
  }
  const { amount, currency, interval } = plan.price;
  if (amount === 0) {
    return { amount: "Free", per: "" };
  }
  const format = new Intl.NumberFormat("en", { style: "currency", currency });
  const whole = 10 ** format.resolvedOptions().maximumFractionDigits;
  return { amount: format.format(amount / whole), per: interval ? ` a ${interval}` : "" };
}

const UNITS = { d: "day", h: "hour", m: "minute", s: "second", ms: "millisecond" };

/** What a plan's buyer should know, line by line. */
export function terms(plan) {
  const lines = [...plan.features];
  if (plan.mode === "subscription") {
    lines.push(plan.price?.interval ? `Renewed every ${plan.price.interval}` : "Renewed by itself");
  } else {
    const [, count, unit] = plan.lasts.match(/^(\d+)([a-z]+)$/);
    const once = plan.price?.amount === 0 ? "" : ", paid once";
    lines.push(`Good for ${count} ${UNITS[unit]}${count === "1" ? "" : "s"}${once}`);
  }
  if (plan.oncePerUser) {
    lines.push("Once for each user");
  }
  return lines;
}

const DAY = new Intl.DateTimeFormat("en-GB", { dateStyle: "long", timeStyle: "short" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });

const DATE = new Intl.DateTimeFormat("en-GB", { dateStyle: "long" });

export const date = (time) => DATE.format(new Date(time));
export const day = (time) => DAY.format(new Date(time));
export const clock = (time) => CLOCK.format(new Date(time));
