// What the page can do without, but is nicer with.
"use strict";

const cardNumber = document.getElementById("card_number");

const grouped = (digits) => digits.replace(/(.{4})(?=.)/g, "$1 ");

// Groups the digits while they are typed, and leaves the caret behind the digit it was behind.
cardNumber?.addEventListener("input", () => {
  if (/[^\d\s-]/.test(cardNumber.value)) return;
  const digitsOf = (text) => text.replace(/\D/g, "");
  const before = digitsOf(cardNumber.value.slice(0, cardNumber.selectionStart));
  cardNumber.value = grouped(digitsOf(cardNumber.value));
  const caret = grouped(before).length;
  cardNumber.setSelectionRange(caret, caret);
});

const fill = document.getElementById("fill");
if (fill) {
  fill.hidden = false;
  fill.addEventListener("click", () => {
    document.getElementById("method-card").click();
    cardNumber.value = fill.dataset.number;
    document.getElementById("expiry").value = "12 / 34";
    document.getElementById("cvc").value = "123";
    document.getElementById("submit").focus();
  });
}

// One click, one payment. Buttons are disabled after the form is read: a disabled one would not be part of it.
for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    setTimeout(() => {
      for (const button of form.querySelectorAll("button")) button.disabled = true;
      if (event.submitter?.dataset.busy) event.submitter.textContent = event.submitter.dataset.busy;
    });
  });
}

// The answer to a form becomes a page like any other: who comes back to it is not asked to send the form again.
history.replaceState(null, "");

// A page from the browser's memory shows how the payment stood; ask how it stands.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
